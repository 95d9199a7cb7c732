#include "../filter2d.h"
#include "flat.h"
#include "forward_planar.h"
#include "select.h"

namespace dynfilters::cpu {

bool forward(const Filter2dParams& p, Storage storage, const Operands& o, const Plan& plan, Worker& worker) {
  if (is_by_pixels(plan.algorithm)) return forward_pixels(p, storage, o, plan, worker);
  return with_access(storage, [&](auto io) {
    using A = typename decltype(io)::type;
    if (plan.algorithm == Algorithm::kFlat)
      return forward_flat<A>(p, o, p.has_channel() ? correlate<A, Mul> : correlate<A, SpatialOnly>, plan.tiles, worker);
    Correlate<A> kernel = nullptr;
    with_combine(p.combine, [&](auto op) { kernel = correlate<A, decltype(op)>; });
    forward_planar<A>(p, o, io, kernel, plan.tiles, worker);
    return true;
  });
}

}  // namespace dynfilters::cpu
