// The generation of taps: pool_project and ddf_generate.
#include <algorithm>

#include "generate.h"
#include "reduce.cuh"

namespace dynfilters::cuda {

// ---- logits and mean ----
//
// Logits of a 1×1 convolution and sums for a global average, in one pass over x.
//
// A block goes through a tile of positions of one sample, 32 at a time, and for those through all
// channels, 64 at a time: by way of shared memory, so that both layouts are read in whole lines.
// Thread (warp, lane) has the position `lane`, of each 64 channels the 8 of its warp, and 9 outputs.
// The next chunk is under way while the last one is worked on.
//
// Accumulation: in the accumulation type. Logits: each warp over its channels in their order, then
// the warps in theirs. Average: over 8 positions, the four of those, the runs of 32 of a tile, then
// the tiles. The cut depends on the problem alone: results are deterministic. No atomics.

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

// ---- squeeze-and-excitation ----
//
// The mean from the partial sums of pool_project, the hidden units, and raw channel taps, by one kernel. A block has a
// few samples, so that it reads a weight once for all of them, and a part of the taps; each part of a sample computes all
// hidden units again, which takes less than waiting for another kernel would.
//
// Accumulation: in the accumulation type, each lane over every 32nd input, then a butterfly. Mean and
// hidden units are rounded to T between the layers. Deterministic, without atomics.

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

// ---- launches ----

namespace {

constexpr size_t kSharedSamples = 48 * 1024, kSharedMost = 96 * 1024;  // any device since sm_80 has the latter

size_t shared_bytes(const GenerateParams& p, Storage storage, int samples) {
  return size_t(p.channels + p.squeezed) * samples * (storage == Storage::kFloat64 ? 8 : 4);
}

template <class T>
void project(const GenerateParams& p, const Tiling& tiling, const GenerateOperands& o, Stream stream) {
  const auto kernel = p.pixels ? pool_project_kernel<T, true> : pool_project_kernel<T, false>;
  launch(kernel, dim3(unsigned(p.batch * tiling.tiles * tiling.groups)), dim3(kGenerateThreads),
         kPoolWords * sizeof(Accumulator<T>), stream, p, tiling, static_cast<const T*>(o.x),
         static_cast<const T*>(o.weight), static_cast<const T*>(o.bias), static_cast<T*>(o.logits),
         static_cast<Accumulator<T>*>(o.partial));
}

template <class T, int kSamples>
void launch_excite(const GenerateParams& p, int tiles, Storage storage, const GenerateOperands& o, Stream stream) {
  const Layers<T> layers{static_cast<const T*>(o.squeeze_weight), static_cast<const T*>(o.squeeze_bias),
                         static_cast<const T*>(o.expand_weight),  static_cast<const T*>(o.expand_bias),
                         static_cast<Accumulator<T>*>(o.partial), static_cast<T*>(o.mean),
                         static_cast<T*>(o.hidden),               static_cast<T*>(o.taps)};
  const int parts = ceil_div(p.expanded, kPart);
  launch(excite<T, kSamples>, dim3(unsigned(ceil_div(p.batch, kSamples)) * parts), dim3(kGenerateThreads),
         shared_bytes(p, storage, kSamples), stream, p, tiles, parts, layers);
}

}  // namespace

size_t partial_sums(const GenerateParams& p) { return size_t(p.batch * Tiling(p).tiles * p.channels); }

bool fits_generate(const GenerateParams& p, Storage storage) { return shared_bytes(p, storage, 1) <= kSharedMost; }

void pool_project(const GenerateParams& p, Storage storage, const GenerateOperands& o, void* stream) {
  if (!p.batch) return;
  const Tiling tiling(p);
  with_storage(storage, [&](auto type) {
    using T = typename decltype(type)::type;
    project<T>(p, tiling, o, static_cast<Stream>(stream));
    launch(finish_mean<T>, dim3(unsigned(ceil_div(p.batch * p.channels, kGenerateThreads))), dim3(kGenerateThreads), 0,
           static_cast<Stream>(stream), p, tiling.tiles, static_cast<const Accumulator<T>*>(o.partial),
           static_cast<T*>(o.mean));
  });
}

void ddf_generate(const GenerateParams& p, Storage storage, const GenerateOperands& o, void* stream) {
  if (!p.batch) return;
  const Tiling tiling(p);
  with_storage(storage, [&](auto type) {
    using T = typename decltype(type)::type;
    project<T>(p, tiling, o, static_cast<Stream>(stream));
    const bool few = shared_bytes(p, storage, 4) > kSharedSamples;
    (few ? launch_excite<T, 1> : launch_excite<T, 4>)(p, tiling.tiles, storage, o, static_cast<Stream>(stream));
  });
}

}  // namespace dynfilters::cuda
