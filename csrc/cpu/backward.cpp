#include "../dispatch.h"
#include "backward_pixels.h"
#include "backward_planar.h"
#include "flat.h"
#include "select.h"

namespace dynfilters::cpu {

// The sums wanted become template arguments; those that an Op has no taps for do not exist.
template <class A, class Op>
SumTaps<A> sum_taps_for(bool spatial, bool channel) {
  if constexpr (Op::kSpatial && Op::kChannel)
    return spatial && channel ? sum_taps<A, Op, true, true> : spatial ? sum_taps<A, Op, true, false> : sum_taps<A, Op, false, true>;
  else
    return sum_taps<A, Op, Op::kSpatial, Op::kChannel>;
}

bool backward(const Problem& p, Storage storage, const Operands& o, const Route& route, int64_t chunks, int64_t begin, int64_t end) {
  return with_access(storage, [&](auto io) {
    using A = typename decltype(io)::type;
    using T = typename decltype(io)::storage;
    if constexpr (sizeof(A) == 4)
      if (route.way == Way::kPixels) {
        Weigh<T, A> kernel = nullptr;
        SumPixels<T, A> sums = nullptr;
        with_combine(p.combine, [&](auto op) {
          kernel = weigh<T, A, decltype(op)>;
          sums = sum_pixels<T, A, decltype(op)>;
        });
        backward_pixels<T>(p, o, kernel, sums, route.tiles, chunks, begin, end);
        return true;
      }
    const bool flat = route.way == Way::kFlat;
    Correlate<A> kernel = nullptr;
    SumTaps<A> sums = nullptr;
    with_combine(flat && p.has_channel() ? Combine::kMul : p.combine, [&](auto op) {
      kernel = correlate<A, decltype(op)>;
      sums = sum_taps_for<A, decltype(op)>(o.grad_spatial, o.partial);
    });
    if (flat) return backward_flat<A>(p, o, kernel, sums, route.tiles, chunks, begin, end);
    backward_planar<A>(p, o, io, kernel, sums, route.tiles, chunks, begin, end);
    return true;
  });
}

void reduce_channel(const Problem& p, Storage storage, const void* partial, int64_t chunks, void* out, int64_t begin, int64_t end) {
  with_access(storage, [&](auto io) {
    using A = typename decltype(io)::type;
    const int64_t taps = p.taps(), rows = p.channels * p.phases;
    std::vector<A> total(taps);
    for (int64_t b = begin; b < end; ++b)
      for (int64_t row = 0; row < rows; ++row) {
        const A* part = static_cast<const A*>(partial) + (b * chunks * rows + row) * taps;
        std::copy(part, part + taps, total.begin());
        for (int64_t chunk = 1; chunk < chunks; ++chunk)
          for (int64_t k = 0; k < taps; ++k) total[k] += part[chunk * rows * taps + k];
        const int64_t target = ((b * p.channels + row / p.phases) * taps) * p.phases + row % p.phases;
        io.write(total.data(), 0, 1, taps, at(out, target * io.bytes), 0, p.phases);
      }
  });
}

}  // namespace dynfilters::cpu
