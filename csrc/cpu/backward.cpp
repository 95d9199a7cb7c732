#include "../dispatch.h"
#include "backward_planar.h"
#include "flat.h"
#include "select.h"

namespace dynfilters::cpu {

bool backward(const Problem& p, Storage storage, const Operands& o, const Route& route, int64_t chunks, Share& share) {
  if (is_by_pixels(route.way)) return backward_pixels(p, storage, o, route, chunks, share);
  return with_access(storage, [&](auto io) {
    using A = typename decltype(io)::type;
    const bool flat = route.way == Way::kFlat;
    Correlate<A> kernel = nullptr;
    SumTaps<A> sums = nullptr;
    with_combine(flat && p.has_channel() ? Combine::kMul : p.combine, [&](auto op) {
      kernel = correlate<A, decltype(op)>;
      sums = sum_taps<A, decltype(op)>;
    });
    if (flat) return backward_flat<A>(p, o, kernel, sums, route.tiles, chunks, share);
    backward_planar<A>(p, o, io, kernel, sums, route.tiles, chunks, share);
    return true;
  });
}

template <class A>
void reduce(const Problem& p, const A* partial, int64_t chunks, A* out, int64_t begin, int64_t end) {
  const int64_t K = p.taps(), rows = p.channels * p.phases;
  for (int64_t b = begin; b < end; ++b)
    for (int64_t row = 0; row < rows; ++row) {
      const A* part = partial + (b * chunks * rows + row) * K;
      A* target = out + (b * p.channels + row / p.phases) * K * p.phases + row % p.phases;
      for (int64_t k = 0; k < K; ++k) {
        A total = part[k];
        for (int64_t chunk = 1; chunk < chunks; ++chunk) total += part[chunk * rows * K + k];
        target[k * p.phases] = total;
      }
    }
}

void reduce_channel(const Problem& p, const void* partial, int64_t chunks, bool is_double, void* out, int64_t begin,
                    int64_t end) {
  if (is_double)
    reduce(p, static_cast<const double*>(partial), chunks, static_cast<double*>(out), begin, end);
  else
    reduce(p, static_cast<const float*>(partial), chunks, static_cast<float*>(out), begin, end);
}

}  // namespace dynfilters::cpu
