// Sums over lanes, warps, slices and blocks, each in one fixed order.
#pragma once
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

// Grad spatial from one row of the kernel, in shared memory as [slice][column of the kernel][pixel].
template <int K, class T>
__device__ __forceinline__ void put_spatial_row(const Target<T>& to, const Filter2dParams& p, const Work& work,
                                                const Block& block, int ky, int pixels, const float* sums) {
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

}  // namespace dynfilters::cuda
