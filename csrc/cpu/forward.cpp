#include "../dispatch.h"
#include "flat.h"
#include "forward_planar.h"
#include "select.h"

namespace dynfilters::cpu {

bool forward(const Problem& p, Storage storage, const Operands& o, const Route& route, int64_t begin, int64_t end) {
  if (is_by_pixels(route.way)) return forward_pixels(p, storage, o, route, begin, end);
  return with_access(storage, [&](auto io) {
    using A = typename decltype(io)::type;
    if (route.way == Way::kFlat)
      return forward_flat<A>(p, o, p.has_channel() ? correlate<A, Mul> : correlate<A, SpatialOnly>, route.tiles, begin,
                             end);
    Correlate<A> kernel = nullptr;
    with_combine(p.combine, [&](auto op) { kernel = correlate<A, decltype(op)>; });
    forward_planar<A>(p, o, io, kernel, route.tiles, begin, end);
    return true;
  });
}

}  // namespace dynfilters::cpu
