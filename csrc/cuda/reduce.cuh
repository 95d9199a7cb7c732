// Sums over lanes, warps, slices and blocks, each in one fixed order.
#pragma once
#include "generic.cuh"
#include "storage.cuh"
#include "work.cuh"

namespace dynfilters::cuda {

// For each of M values (a power of two up to 32) the sum over each run of `lanes` lanes (a power of
// two, at least M); lane l gets that of value l % M. A butterfly that halves the values while it
// doubles the lanes: M - 1 shuffles, and one for each further doubling, where M separate sums would
// take 5·M. Each step is an instance of its own, so that the values stay in registers.
template <int M, int All, class A>
__device__ __forceinline__ A warp_sums(A (&values)[All], int lanes = 32) {
  if constexpr (M == 1) {
#pragma unroll
    for (int mask = All; mask < 32; mask *= 2)
      if (mask < lanes) values[0] += shuffle_xor(values[0], mask);
    return values[0];
  } else {
    constexpr int half = M / 2;
    const bool upper = threadIdx.x & half;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const A sent = upper ? values[i] : values[i + half];
      values[i] = (upper ? values[i + half] : values[i]) + shuffle_xor(sent, half);
    }
    return warp_sums<half>(values, lanes);
  }
}

__host__ __device__ constexpr int largest_power(int n) {
  return n >= 32 ? 32 : n >= 16 ? 16 : n >= 8 ? 8 : n >= 4 ? 4 : n >= 2 ? 2 : 1;
}

// to[i] = the sum over the warp of values[i], for N of them.
template <int N, int First = 0, int All>
__device__ __forceinline__ void store_warp_sums(const float (&values)[All], float* to) {
  constexpr int m = largest_power(N);
  float some[m];
#pragma unroll
  for (int i = 0; i < m; ++i) some[i] = values[First + i];
  const float sum = warp_sums<m>(some);
  const int lane = int(threadIdx.x) % 32;
  if (lane < m) to[First + lane] = sum;
  if constexpr (N > m) store_warp_sums<N - m, First + m>(values, to);
}

// Two arrays of outputs, each summed over its parts, which lie one after the other.
template <class T>
struct Partials {
  const float* from;
  T* to;
  int64_t elements;
  int parts;
};

template <class T>
__global__ void __launch_bounds__(kGenericThreads) sum_partials(Partials<T> first, Partials<T> second) {
  for (int64_t i = first_element(); i < first.elements + second.elements; i += element_step()) {
    const bool in_first = i < first.elements;
    const int64_t at = in_first ? i : i - first.elements, elements = in_first ? first.elements : second.elements;
    const float* from = in_first ? first.from : second.from;
    const int parts = in_first ? first.parts : second.parts;
    float total = 0;
    for (int part = 0; part < parts; ++part) total += from[part * elements + at];
    (in_first ? first.to : second.to)[at] = narrow<T>(total);
  }
}

// Where a kernel leaves a gradient of taps: `parts` partial sums, or the result if there is one.
template <class T>
struct Target {
  T* result;       // null: not wanted
  float* partial;  // null: the result is written at once
  int64_t elements;

  __device__ __forceinline__ void put(int part, int64_t at, float value) const {
    if (partial)
      partial[part * elements + at] = value;
    else
      result[at] = narrow<T>(value);
  }
};

template <class T>
struct TapTargets {
  Target<T> spatial, channel;
};

// Grad spatial from one row of the kernel, in shared memory as [slice][column of the kernel][pixel].
template <int K, class T>
__device__ __forceinline__ void put_spatial_row(const Target<T>& to, const Problem& p, const Work& work,
                                                const Block& block, int ky, int pixels,
                                                const float* sums) {
  const int height = int(p.height), width = int(p.width), step = int(p.dilation), plane = height * width;
  const int64_t first = ((block.b * p.groups + block.g) * K + ky) * K * plane;
#pragma unroll 1
  for (int i = threadIdx.x; i < K * pixels; i += blockDim.x) {
    const int kx = i / pixels;
    int qy, qx;
    if (!work.locate(block.tile, i % pixels, height, width, qy, qx)) continue;
    float total = 0;
    for (int z = 0; z < work.slices; ++z) total += sums[z * K * pixels + i];
    const int down = step * (ky - K / 2), right = step * (kx - K / 2);
    const int position = qy * width + qx;
    if (unsigned(qy - down) < unsigned(height) && unsigned(qx - right) < unsigned(width))
      to.put(block.split, first + kx * plane + position - down * width - right, total);
    // As an output, q may have this tap outside of x.
    if (unsigned(qy + down) >= unsigned(height) || unsigned(qx + right) >= unsigned(width))
      to.put(block.split, first + kx * plane + position, 0.f);
  }
}

// The grad channel of one channel a slice, from sums of its warps: [slice][warp][tap].
template <int Taps, class T>
__device__ __forceinline__ void put_channel(const Target<T>& to, const Work& work, const Block& block, int round,
                                            const float* sums) {
  const int warps = work.lanes / 32;
  for (int i = threadIdx.x; i < work.slices * Taps; i += blockDim.x) {
    const int slice = i / Taps, k = i % Taps, c = round * work.slices + slice;
    if (c >= block.channels) continue;
    float total = 0;
    for (int w = 0; w < warps; ++w) total += sums[(slice * warps + w) * Taps + k];
    to.put(block.tile, (block.row + c) * Taps + k, total);
  }
}

inline int64_t spatial_elements(const Problem& p) {
  return p.batch * p.groups * p.taps() * p.rows * p.cols * p.scale * p.scale;
}
inline int64_t channel_elements(const Problem& p) { return p.batch * p.channels * p.taps() * p.phases; }

// Of grad_spatial there are as many parts as splits of the channels, of grad_channel as tiles.
inline size_t partial_elements(const Problem& p, const Operands& o, int splits, int tiles) {
  const int64_t spatial = o.grad_spatial && splits > 1 ? splits * spatial_elements(p) : 0;
  return size_t(spatial + (o.grad_channel && tiles > 1 ? tiles * channel_elements(p) : 0));
}

template <class T>
TapTargets<T> tap_targets(const Problem& p, const Operands& operands, int splits, int tiles) {
  const Typed<T> o(operands);
  TapTargets<T> to{{o.grad_spatial, nullptr, spatial_elements(p)}, {o.grad_channel, nullptr, channel_elements(p)}};
  float* free = o.workspace;
  if (o.grad_spatial && splits > 1) to.spatial.partial = free, free += splits * to.spatial.elements;
  if (o.grad_channel && tiles > 1) to.channel.partial = free;
  return to;
}

template <class T>
void sum_all_partials(const TapTargets<T>& to, int splits, int tiles, Stream stream) {
  auto job = [](const Target<T>& t, int parts) {
    return Partials<T>{t.partial, t.result, t.partial ? t.elements : 0, parts};
  };
  const Partials<T> first = job(to.spatial, splits), second = job(to.channel, tiles);
  const int64_t elements = first.elements + second.elements;
  if (elements)
    launch(sum_partials<T>, grid_of((elements + kGenericThreads - 1) / kGenericThreads), dim3(kGenericThreads), 0,
           stream, first, second);
}

}  // namespace dynfilters::cuda
