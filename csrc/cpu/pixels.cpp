#include "../dispatch.h"
#include "backward_pixels.h"
#include "select.h"

namespace dynfilters::cpu {

bool forward_pixels(const Problem& p, Storage storage, const Operands& o, const Tiles& tiles, int64_t begin,
                    int64_t end) {
  return with_short_access(storage, [&](auto io) {
    using T = typename decltype(io)::storage;
    Weigh<T, float> kernel = nullptr;
    with_combine(p.combine, [&](auto op) { kernel = weigh<T, float, decltype(op)>; });
    forward_rows<T>(p, o, kernel, tiles, begin, end);
    return true;
  });
}

bool backward_pixels(const Problem& p, Storage storage, const Operands& o, const Tiles& tiles, int64_t chunks,
                     int64_t begin, int64_t end) {
  return with_short_access(storage, [&](auto io) {
    using T = typename decltype(io)::storage;
    Weigh<T, float> kernel = nullptr;
    SumPixels<T, float> sums = nullptr;
    with_combine(p.combine, [&](auto op) {
      kernel = weigh<T, float, decltype(op)>;
      sums = sum_pixels<T, float, decltype(op)>;
    });
    backward_rows<T>(p, o, kernel, sums, tiles, chunks, begin, end);
    return true;
  });
}

}  // namespace dynfilters::cpu
