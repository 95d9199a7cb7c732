// The squeeze-and-excitation behind pool_project.cuh: the mean from its partial sums, the hidden
// units, and raw channel taps, by one kernel. A block has a few samples, so that it reads a weight
// once for all of them, and a part of the taps; each part of a sample computes all hidden units again,
// which takes less than waiting for another kernel would.
//
// Accumulation: in the accumulation type, each lane over every 32nd input, then a butterfly. Mean and
// hidden units are rounded to T between the layers. Deterministic, without atomics.
#pragma once
#include "pool_project.cuh"
#include "reduce.cuh"

namespace dynfilters::cuda {

constexpr int kPart = 128;  // taps

template <class T>
struct Layers {
  using A = Accumulator<T>;
  const T *squeeze_weight, *squeeze_bias, *expand_weight, *expand_bias;
  const A* partial;  // (batch, tiles, channels)
  T *mean, *hidden, *taps;
};

// Calls put(sample, o, sum) for the rows [begin, end) of a weight; `in` is shared, [sample][input].
template <int kSamples, class T, class Put>
__device__ __forceinline__ void apply_layer(const T* weight, const T* bias, const Accumulator<T>* in, int64_t inputs,
                                            int64_t begin, int64_t end, const Put& put) {
  using A = Accumulator<T>;
  const int lane = int(threadIdx.x) % 32;
  for (int64_t o = begin + threadIdx.x / 32; o < end; o += kWarps) {
    A sums[kSamples] = {};
    for (int64_t i = lane; i < inputs; i += 32) {
      const A factor = read(weight + o * inputs + i);
#pragma unroll
      for (int s = 0; s < kSamples; ++s) sums[s] += factor * in[s * inputs + i];
    }
    const A total = warp_sums<kSamples>(sums);
    if (lane < kSamples) put(lane, o, total + (bias ? read(bias + o) : A(0)));
  }
}

template <class T, int kSamples>
__global__ void __launch_bounds__(kGenerateThreads) excite(GenerateParams p, int tiles, int parts, Layers<T> o) {
  using A = Accumulator<T>;
  A* mean = shared_memory<A>();               // [sample][channel]
  A* hidden = mean + kSamples * p.channels;  // [sample][unit]
  const int64_t part = blockIdx.x % unsigned(parts), first = int64_t(blockIdx.x / unsigned(parts)) * kSamples;
  for (int64_t i = threadIdx.x; i < kSamples * p.channels; i += kGenerateThreads) {
    const int64_t b = first + i / p.channels, c = i % p.channels;
    const bool inside = b < p.batch;
    const T value = inside ? finished_mean<T>(p, tiles, o.partial, b, c) : from_acc<T>(A(0));
    mean[i] = to_acc(value);
    if (inside && part == 0) o.mean[b * p.channels + c] = value;
  }
  sync_block();
  apply_layer<kSamples>(o.squeeze_weight, o.squeeze_bias, mean, p.channels, 0, p.squeezed,
                        [&](int sample, int64_t unit, A sum) {
                          const T value = from_acc<T>(sum < 0 ? A(0) : sum);  // NaN stays
                          hidden[sample * p.squeezed + unit] = to_acc(value);
                          const int64_t b = first + sample;
                          if (b < p.batch && part == 0) o.hidden[b * p.squeezed + unit] = value;
                        });
  sync_block();
  const int64_t begin = part * kPart, end = begin + kPart < p.expanded ? begin + kPart : p.expanded;
  apply_layer<kSamples>(o.expand_weight, o.expand_bias, hidden, p.squeezed, begin, end,
                        [&](int sample, int64_t tap, A sum) {
                          const int64_t b = first + sample;
                          if (b < p.batch) o.taps[b * p.expanded + tap] = from_acc<T>(sum);
                        });
}

}  // namespace dynfilters::cuda
