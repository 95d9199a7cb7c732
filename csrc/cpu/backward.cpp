#include "../filter2d.h"
#include "backward_planar.h"
#include "flat.h"
#include "select.h"

namespace dynfilters::cpu {

bool backward(const Filter2dParams& p, Storage storage, const Operands& o, const Plan& plan, int64_t chunks,
              Worker& worker) {
  if (is_by_pixels(plan.algorithm)) return backward_pixels(p, storage, o, plan, chunks, worker);
  return with_access(storage, [&](auto io) {
    using A = typename decltype(io)::type;
    const bool flat = plan.algorithm == Algorithm::kFlat;
    Correlate<A> kernel = nullptr;
    SumTaps<A> sums = nullptr;
    with_combine(flat && p.has_channel() ? Combine::kMul : p.combine, [&](auto op) {
      kernel = correlate<A, decltype(op)>;
      sums = sum_taps<A, decltype(op)>;
    });
    if (flat) return backward_flat<A>(p, o, kernel, sums, plan.tiles, chunks, worker);
    backward_planar<A>(p, o, io, kernel, sums, plan.tiles, chunks, worker);
    return true;
  });
}

template <class A>
void reduce(const Filter2dParams& p, const A* partial, int64_t chunks, A* out, int64_t begin, int64_t end) {
  const int64_t K = p.taps(), rows = p.channels * p.channel_phases;
  for (int64_t b = begin; b < end; ++b)
    for (int64_t row = 0; row < rows; ++row) {
      const A* part = partial + (b * chunks * rows + row) * K;
      A* target = out + (b * p.channels + row / p.channel_phases) * K * p.channel_phases + row % p.channel_phases;
      for (int64_t k = 0; k < K; ++k) {
        A total = part[k];
        for (int64_t chunk = 1; chunk < chunks; ++chunk) total += part[chunk * rows * K + k];
        target[k * p.channel_phases] = total;
      }
    }
}

void reduce_channel(const Filter2dParams& p, const void* partial, int64_t chunks, bool is_double, void* out,
                    int64_t begin, int64_t end) {
  if (is_double)
    reduce(p, static_cast<const double*>(partial), chunks, static_cast<double*>(out), begin, end);
  else
    reduce(p, static_cast<const float*>(partial), chunks, static_cast<float*>(out), begin, end);
}

}  // namespace dynfilters::cpu
