// Logits of a 1×1 convolution and sums for a global average, in one pass over x.
//
// A block goes through a tile of positions of one sample, 32 at a time, and for those through all
// channels, 64 at a time: by way of shared memory, so that both layouts are read in whole lines.
// Thread (warp, lane) has the position `lane`, of each 64 channels the 8 of its warp, and 9 outputs.
// What comes next is under way while the last is worked on.
//
// Accumulation: in the accumulation type. Logits: each warp over its channels in their order, then
// the warps in theirs. Average: over 8 positions, the four of those, the runs of 32 of a tile, then
// the tiles. The cut depends on the problem alone: results are deterministic. No atomics.
#pragma once
#include <algorithm>

#include "generate.h"
#include "work.cuh"

namespace dynfilters::cuda {

constexpr int kRun = 32, kChunk = 64, kOutputs = 9, kGenerateThreads = 256, kWarps = kGenerateThreads / 32;
constexpr int kPitch = kRun + 1;                               // no two lanes in one bank, along either axis
constexpr int kEach = kRun * kChunk / kGenerateThreads;        // elements of x for each thread
constexpr int kFactors = ceil_div(kChunk * kOutputs, kGenerateThreads);
constexpr int kPoolWords = kChunk * (kPitch + padded(kOutputs));  // of shared memory
static_assert(kPoolWords >= kWarps * kOutputs * kRun, "the sums of all warps have to fit too");

// How the positions of a sample are cut: `runs` of 32 for each of `tiles` blocks.
struct Tiling {
  int runs, tiles, groups;  // groups: of outputs

  explicit Tiling(const GenerateParams& p) {
    const int64_t all = (p.positions + kRun - 1) / kRun;
    // Blocks for any device; but few tiles, as their sums are added up by one thread.
    const int64_t many = std::max(p.batch * all / 1024, (all + 63) / 64);
    runs = int(std::max<int64_t>(many, 1));
    tiles = ceil_div(all, runs), groups = ceil_div(p.outputs, kOutputs);
  }
};

// The elements of x and of the weight that a thread brings to shared memory for a chunk.
template <class T, bool kPixels>
struct Fetched {
  using A = Accumulator<T>;
  A x[kEach], weight[kFactors];

  // Channels from `channel`, positions from `position`, outputs from `output`; zeros beyond.
  __device__ __forceinline__ void fetch(const GenerateParams& p, const T* from, const T* factors, int64_t channel,
                                        int64_t position, int64_t output) {
    const int64_t c = channel + row(), at = position + column();
    const int64_t step = kPixels ? kStep * p.channels : kStep * p.positions;
    const int64_t left = kPixels ? p.positions - at : p.channels - c;
    const bool inside = kPixels ? c < p.channels : at < p.positions;
    from += kPixels ? at * p.channels + c : c * p.positions + at;
#pragma unroll
    for (int i = 0; i < kEach; ++i, from += step) x[i] = inside && i * kStep < left ? read(from) : A(0);
#pragma unroll
    for (int i = 0; i < kFactors; ++i) {
      const int element = i * kGenerateThreads + int(threadIdx.x);
      const int64_t c = channel + element % kChunk, o = output + element / kChunk;
      const bool inside = element < kChunk * kOutputs && c < p.channels && o < p.outputs;
      weight[i] = inside ? read(factors + o * p.channels + c) : A(0);
    }
  }
  __device__ __forceinline__ void store(A* values, A* factors) const {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int down = kPixels ? 0 : i * kStep, right = kPixels ? i * kStep : 0;
      values[(row() + down) * kPitch + column() + right] = x[i];
    }
#pragma unroll
    for (int i = 0; i < kFactors; ++i) {
      const int element = i * kGenerateThreads + int(threadIdx.x);
      if (element < kChunk * kOutputs) factors[element % kChunk * padded(kOutputs) + element / kChunk] = weight[i];
    }
  }

 private:
  // The thread's elements: the first one, and how far apart they are, in channels or positions.
  static constexpr int kWide = kPixels ? kChunk : kRun, kStep = kGenerateThreads / kWide;
  __device__ __forceinline__ static int row() { return kPixels ? threadIdx.x % kWide : threadIdx.x / kWide; }
  __device__ __forceinline__ static int column() { return kPixels ? threadIdx.x / kWide : threadIdx.x % kWide; }
};

// The thread's share of a chunk in the logits of its position.
template <class A>
__device__ __forceinline__ void add_chunk(const A* values, const A* factors, A (&sums)[kOutputs]) {
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
#pragma unroll
  for (int i = 0; i < kChunk / kWarps; ++i) {
    const int c = warp * (kChunk / kWarps) + i;
    const A value = values[c * kPitch + lane];
    A weight[kOutputs];
    if constexpr (sizeof(A) == 4) {
      read_taps(factors + c * padded(kOutputs), weight);
    } else {
#pragma unroll
      for (int o = 0; o < kOutputs; ++o) weight[o] = factors[c * padded(kOutputs) + o];
    }
#pragma unroll
    for (int o = 0; o < kOutputs; ++o) sums[o] += weight[o] * value;
  }
}

// The sum of a chunk's channel threadIdx.x / 4 over the run of positions, for all four threads of it.
template <class A>
__device__ __forceinline__ A channel_sum(const A* values) {
  const A* from = values + int(threadIdx.x) / 4 * kPitch + int(threadIdx.x) % 4 * (kRun / 4);
  A total = 0;
#pragma unroll
  for (int i = 0; i < kRun / 4; ++i) total += from[i];
  total += shuffle_xor(total, 1);
  return total + shuffle_xor(total, 2);
}

// Adds up the logits over the warps, and writes them.
template <class T, bool kPixels, class A>
__device__ __forceinline__ void put_logits(const GenerateParams& p, const A (&sums)[kOutputs], A* shared, const T* bias,
                                           int64_t position, int64_t output, T* logits) {
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
#pragma unroll
  for (int o = 0; o < kOutputs; ++o) shared[(warp * kOutputs + o) * kRun + lane] = sums[o];
  sync_block();
  for (int i = threadIdx.x; i < kOutputs * kRun; i += kGenerateThreads) {
    const int o = kPixels ? i % kOutputs : i / kRun, at = kPixels ? i / kOutputs : i % kRun;
    if (output + o >= p.outputs || position + at >= p.positions) continue;
    A total = bias ? read(bias + output + o) : A(0);
    for (int w = 0; w < kWarps; ++w) total += shared[(w * kOutputs + o) * kRun + at];
    const int64_t to = kPixels ? (position + at) * p.outputs + output + o : (output + o) * p.positions + position + at;
    logits[to] = from_acc<T>(total);
  }
  sync_block();
}

// partial: (batch, tiles, channels).
template <class T, bool kPixels>
__global__ void __launch_bounds__(kGenerateThreads)
    pool_project_kernel(GenerateParams p, Tiling tiling, const T* x, const T* weight, const T* bias, T* logits,
                        Accumulator<T>* partial) {
  using A = Accumulator<T>;
  A* values = shared_memory<A>();         // [channel][position]
  A* factors = values + kChunk * kPitch;  // [channel][output]
  const int group = int(blockIdx.x) % tiling.groups, tile = int(blockIdx.x) / tiling.groups % tiling.tiles;
  const int64_t b = int(blockIdx.x) / tiling.groups / tiling.tiles, output = int64_t(group) * kOutputs;
  x += b * p.channels * p.positions, logits += b * p.outputs * p.positions;
  partial += (b * tiling.tiles + tile) * p.channels;
  Fetched<T, kPixels> next;
  for (int run = 0; run < tiling.runs; ++run) {
    const int64_t position = (int64_t(tile) * tiling.runs + run) * kRun;
    if (position >= p.positions) return;
    A sums[kOutputs] = {};
    next.fetch(p, x, weight, 0, position, output);
    for (int64_t first = 0; first < p.channels; first += kChunk) {
      next.store(values, factors);
      sync_block();
      if (first + kChunk < p.channels) next.fetch(p, x, weight, first + kChunk, position, output);
      add_chunk(values, factors, sums);
      const A total = channel_sum(values);
      const int64_t c = first + int(threadIdx.x) / 4;
      if (group == 0 && threadIdx.x % 4 == 0 && c < p.channels) partial[c] = run ? partial[c] + total : total;
      sync_block();
    }
    put_logits<T, kPixels>(p, sums, values, bias, position, output, logits);
  }
}

// The mean of one channel of sample b, in T as all that follows sees it.
template <class T>
__device__ __forceinline__ T finished_mean(const GenerateParams& p, int tiles, const Accumulator<T>* partial, int64_t b,
                                           int64_t c) {
  Accumulator<T> total = 0;
  for (int tile = 0; tile < tiles; ++tile) total += read(partial + (b * tiles + tile) * p.channels + c);
  return from_acc<T>(total / Accumulator<T>(p.positions));
}

template <class T>
__global__ void __launch_bounds__(kGenerateThreads)
    finish_mean(GenerateParams p, int tiles, const Accumulator<T>* partial, T* mean) {
  const int64_t i = int64_t(blockIdx.x) * kGenerateThreads + threadIdx.x;
  if (i < p.batch * p.channels) mean[i] = finished_mean<T>(p, tiles, partial, i / p.channels, i % p.channels);
}

}  // namespace dynfilters::cuda
