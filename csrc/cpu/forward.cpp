#include "../dispatch.h"
#include "flat.h"
#include "forward_planar.h"
#include "select.h"

namespace dynfilters::cpu {

bool forward(const Problem& p, Storage storage, const Operands& o, const Route& route, Share& share) {
  if (is_by_pixels(route.way)) return forward_pixels(p, storage, o, route, share);
  return with_access(storage, [&](auto io) {
    using A = typename decltype(io)::type;
    if (route.way == Way::kFlat)
      return forward_flat<A>(p, o, p.has_channel() ? correlate<A, Mul> : correlate<A, SpatialOnly>, route.tiles, share);
    Correlate<A> kernel = nullptr;
    with_combine(p.combine, [&](auto op) { kernel = correlate<A, decltype(op)>; });
    forward_planar<A>(p, o, io, kernel, route.tiles, share);
    return true;
  });
}

}  // namespace dynfilters::cpu
