// Kernels for channels_last: a thread owns four channels, and walks over pixels.
#pragma once
#include "reduce.cuh"

namespace dynfilters::cuda {

constexpr int kVector = 4, kPixelThreads = 256;

// Thread t of a block has channels 4·(t % vectors) and on, and every slots-th pixel of the tile.
struct Pixels {
  int vectors, slots;
  int length, tiles;  // pixels in a tile, tiles in a sample
  int parts;          // blocks that share the channels of a pixel
  int threads() const { return vectors * slots; }
};

// The channels lie side by side, in whole aligned vectors.
template <class T>
bool has_vectors(const void* pointer, const int64_t* strides) {
  return reinterpret_cast<uintptr_t>(pointer) % (kVector * sizeof(T)) == 0 && strides[1] == 1 &&
         strides[0] % kVector == 0 && strides[2] % kVector == 0 && strides[3] % kVector == 0;
}

// The activated taps of the thread's channels, [tap][channel].
template <int Taps, class T>
__device__ __forceinline__ void read_vector_taps(const Filter2dParams& p, const RawTaps<T>& raw, int64_t b, int64_t c,
                                                 float (&to)[Taps][kVector]) {
  const T* channel = raw.channel + b * p.cs[0] + c * p.cs[1];
#pragma unroll
  for (int k = 0; k < Taps; ++k)
#pragma unroll
    for (int v = 0; v < kVector; ++v) to[k][v] = read(channel + v * p.cs[1] + k * p.cs[2]);
  if (!raw.changes_channel()) return;
#pragma unroll
  for (int v = 0; v < kVector; ++v)
    raw.template activate_channel<Taps>(c + v, Taps, 0, [&](int k) -> float& { return to[k][v]; });
}

// ---- forward ----
//
// For kernels of 3, 5 and 7, any stride, dilation and scale, without phases.
// A warp reads whole lines of neighbouring channels, and one spatial tap for all of them. Channel
// taps stay in registers (3×3) or in shared memory.
//
// Accumulation: float32, taps in row-major order: deterministic. Every output is written once.

template <class T, class Op, int K>
__global__ void __launch_bounds__(kPixelThreads, 2)
    pixels_forward(Filter2dParams p, Pixels work, const T* x, RawTaps<T> raw, T* y) {
  constexpr int taps = K * K;
  constexpr bool in_registers = Op::kChannel && K == 3;
  constexpr int rows = K == 3 ? 3 : 1;  // of the kernel at once
  const int part = int(blockIdx.x) % work.parts, tile = int(blockIdx.x) / work.parts % work.tiles;
  const int64_t b = int(blockIdx.x) / work.parts / work.tiles;
  const int vector = int(threadIdx.x) % work.vectors, slot = int(threadIdx.x) / work.vectors;
  const int first = part * work.vectors * kVector, c = first + vector * kVector;
  float* shared = shared_memory<float>();  // [tap][channel]
  if constexpr (Op::kChannel && !in_registers) {
    for (int i = threadIdx.x; i < work.vectors * kVector * taps; i += blockDim.x) {
      const int k = i / (work.vectors * kVector), at = i % (work.vectors * kVector);
      if (first + at < int(p.channels))
        shared[i] = read(raw.channel + b * p.cs[0] + (first + at) * p.cs[1] + k * p.cs[2]);
    }
    sync_block();
    if (raw.changes_channel()) {
      const int all = work.vectors * kVector;
      for (int i = threadIdx.x; i < all && first + i < int(p.channels); i += blockDim.x)
        raw.template activate_channel<1>(first + i, taps, 0, [&](int k) -> float& { return shared[k * all + i]; });
      sync_block();
    }
  }
  if (slot >= work.slots || c >= int(p.channels)) return;
  float registers[in_registers ? taps : 1][kVector] = {};
  if constexpr (in_registers) read_vector_taps(p, raw, b, c, registers);
  const int scale = int(p.scale), stride = int(p.stride), step = int(p.dilation);
  const int width = int(p.cols) * scale, positions = int(p.rows) * scale * width;
  const int g = Op::kSpatial ? c / int(p.channels / p.groups) : 0;
  const T* spatial = Op::kSpatial ? raw.spatial + b * p.ss[0] + g * p.ss[1] : nullptr;
  const int64_t filter = (b * p.groups + g) * positions;
  x += b * p.xs[0] + c, y += b * p.ys[0] + c;
  for (int i = slot; i < work.length; i += work.slots) {
    const int position = tile * work.length + i, oy = position / width, ox = position % width;
    if (position >= positions) return;
    const int top = oy / scale * stride - step * (K / 2), left = ox / scale * stride - step * (K / 2);
    const T* at = Op::kSpatial ? spatial + oy * p.ss[3] + ox * p.ss[4] : nullptr;
    float totals[kVector] = {};
#pragma unroll 1
    for (int first_row = 0; first_row < K; first_row += rows) {
      // All before the activation's branch, so that the loads behind it need not wait for each other.
      float s[rows * K] = {};
      if constexpr (Op::kSpatial) {
#pragma unroll
        for (int j = 0; j < rows * K; ++j) s[j] = read(at + (first_row * K + j) * p.ss[2]);
        raw.of_spatial.with([&](const auto& how) {
          const auto statistics = how.statistics_at(filter + position);
#pragma unroll
          for (int j = 0; j < rows * K; ++j) s[j] = how.finish(s[j], statistics);
        });
      }
#pragma unroll
      for (int j = 0; j < rows * K; ++j) {
        const int k = first_row * K + j, iy = top + (first_row + j / K) * step, ix = left + j % K * step;
        float values[kVector] = {}, weights[kVector] = {};
        const bool inside = unsigned(iy) < unsigned(p.height) && unsigned(ix) < unsigned(p.width);
        if (inside) read(x + iy * int(p.xs[2]) + ix * int(p.xs[3]), values);
        if constexpr (Op::kChannel && !in_registers)
          read_shared(shared + (k * work.vectors + vector) * kVector, weights);
#pragma unroll
        for (int v = 0; v < kVector; ++v)
          totals[v] += Op::tap(s[j], in_registers ? registers[in_registers ? j : 0][v] : weights[v]) * values[v];
      }
    }
    write(y + oy * int(p.ys[2]) + ox * int(p.ys[3]), totals);
  }
}

template <class T>
bool can_forward_pixels(const Filter2dParams& p, const Operands& o) {
  return p.channel_phases == 1 && p.channels % kVector == 0 && p.group_channels() % kVector == 0 &&
         has_vectors<T>(o.x, p.xs) && has_vectors<T>(o.y, p.ys);
}

inline Pixels pixels_forward_work(const Filter2dParams& p) {
  Pixels work{};
  const int vectors = int(p.channels) / kVector, positions = int(p.rows * p.cols * p.scale * p.scale);
  work.vectors = std::min(vectors, 64);
  work.parts = ceil_div(vectors, work.vectors);
  work.slots = kPixelThreads / work.vectors;
  const int64_t each = p.batch * vectors * positions >> 18;  // pixels for each of 2^18 threads
  work.length = std::clamp<int>(int(each), 4, 32) * work.slots;
  work.tiles = ceil_div(positions, work.length);
  return work;
}

template <class T, class Op, int K>
void forward_pixels(const Filter2dParams& p, const Operands& operands, Stream stream) {
  const Typed<T> o(operands);
  const Pixels work = pixels_forward_work(p);
  const int shared = Op::kChannel && K > 3 ? K * K * work.vectors * kVector * int(sizeof(float)) : 0;
  const int threads = ceil_div(work.threads(), 32) * 32;
  launch(pixels_forward<T, Op, K>, dim3(unsigned(p.batch * work.tiles * work.parts)), dim3(threads), shared, stream, p,
         work, o.x, o.raw, o.y);
}

// ---- backward ----
//
// In one pass for x and grad in channels_last, 3×3 kernels, stride and scale 1, any dilation,
// groups of a power of two of at least 32 channels, or of a multiple of 128. A thread owns four
// channels of a pixel q of x, and goes from pixel to pixel: grad channel adds up in its registers,
// grad spatial is summed over the threads of a group.
//
// Accumulation: float32. grad x over taps in order; grad spatial over four channels in order, then
// lanes by a butterfly, then the group's warps in order; grad channel over every slots-th pixel of a
// tile in order, then slots, then tiles in order (a second kernel). The cut depends on the problem
// alone: deterministic. Every element is written once.

// Where the tap of x at q = (y, x) belongs, and where q as an output has a tap outside of x.
template <class T>
__device__ __forceinline__ void put_spatial(const Target<T>& to, const Filter2dParams& p, int64_t b, int64_t g, int k,
                                            int y, int x, float value) {
  const int height = int(p.height), width = int(p.width), plane = height * width;
  const int down = int(p.dilation) * (k / 3 - 1), right = int(p.dilation) * (k % 3 - 1);
  const int64_t first = ((b * p.groups + g) * 9 + k) * plane;
  if (unsigned(y - down) < unsigned(height) && unsigned(x - right) < unsigned(width))
    to.put(0, first + (y - down) * width + x - right, value);
  if (unsigned(y + down) >= unsigned(height) || unsigned(x + right) >= unsigned(width))
    to.put(0, first + y * width + x, 0.f);
}

template <class T, class Op>
__global__ void __launch_bounds__(kPixelThreads, 1)
    pixels_backward(Filter2dParams p, Pixels work, const T* x, RawTaps<T> raw, const T* grad, T* grad_x,
                    TapTargets<T> to) {
  constexpr int taps = 9;
  const int tile = int(blockIdx.x) % work.tiles, width = int(p.width), height = int(p.height), step = int(p.dilation);
  const int64_t b = int(blockIdx.x) / work.tiles;
  const int vector = int(threadIdx.x) % work.vectors, slot = int(threadIdx.x) / work.vectors, c = vector * kVector;
  const int group_vectors = int(p.channels / p.groups) / kVector, lanes = group_vectors < 32 ? group_vectors : 32;
  const int runs = int(blockDim.x) / lanes;  // of lanes with one sum each for grad spatial
  float* shared = shared_memory<float>();    // two rounds of these sums; in the end, sums of slots
  float taps_of_c[taps][kVector] = {}, dc[taps][kVector] = {};
  if constexpr (Op::kChannel) read_vector_taps(p, raw, b, c, taps_of_c);
  x += b * p.xs[0] + c, grad += b * p.ys[0] + c;
  if (grad_x) grad_x += b * p.gs[0] + c;
  const int group = Op::kSpatial ? vector / group_vectors : 0;
  const T* spatial = Op::kSpatial ? raw.spatial + b * p.ss[0] + group * p.ss[1] : nullptr;
  const int64_t filter = (b * p.groups + group) * height * width;
  const bool needs_x = to.spatial.is_wanted() || to.channel.is_wanted();
  for (int i = 0; i < work.length; i += work.slots) {
    const int position = tile * work.length + i + slot, qy = position / width, qx = position % width;
    const bool here = position < height * width;
    float centre[kVector] = {}, totals[kVector] = {}, s[taps] = {}, ds[taps];
    if (here && needs_x) read(x + qy * int(p.xs[2]) + qx * int(p.xs[3]), centre);
    if constexpr (Op::kSpatial) {
#pragma unroll
      for (int k = 0; k < taps; ++k) {
        const int oy = qy - step * (k / 3 - 1), ox = qx - step * (k % 3 - 1);
        if (here && unsigned(oy) < unsigned(height) && unsigned(ox) < unsigned(width))
          s[k] = read(spatial + k * p.ss[2] + oy * p.ss[3] + ox * p.ss[4]);
      }
      raw.of_spatial.with([&](const auto& how) {
#pragma unroll
        for (int k = 0; k < taps; ++k) {
          const int oy = qy - step * (k / 3 - 1), ox = qx - step * (k % 3 - 1);
          if (here && unsigned(oy) < unsigned(height) && unsigned(ox) < unsigned(width))
            s[k] = how.finish_at(s[k], filter + oy * width + ox);
        }
      });
    }
#pragma unroll
    for (int k = 0; k < taps; ++k) {
      const int oy = qy - step * (k / 3 - 1), ox = qx - step * (k % 3 - 1);
      float g[kVector] = {};
      if (here && unsigned(oy) < unsigned(height) && unsigned(ox) < unsigned(width))
        read(grad + oy * int(p.ys[2]) + ox * int(p.ys[3]), g);
      ds[k] = 0;
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        totals[v] += Op::tap(s[k], taps_of_c[k][v]) * g[v];
        if constexpr (Op::kSpatial) ds[k] += Op::d_spatial(centre[v] * g[v], taps_of_c[k][v]);
        if constexpr (Op::kChannel) dc[k][v] += Op::d_channel(centre[v] * g[v], s[k]);
      }
    }
    if (grad_x && here) write(grad_x + qy * int(p.gs[2]) + qx * int(p.gs[3]), totals);
    if (Op::kSpatial && to.spatial.is_wanted()) {
      float* sums = shared + i / work.slots % 2 * runs * taps;
      float eight[8], last[1] = {ds[8]};
#pragma unroll
      for (int k = 0; k < 8; ++k) eight[k] = ds[k];
      const float sum = warp_sums<8>(eight, lanes), ninth = warp_sums<1>(last, lanes);
      const int lane = int(threadIdx.x) % lanes, run = int(threadIdx.x) / lanes;
      if (lane < 8) sums[run * taps + lane] = sum;
      if (lane == 0) sums[run * taps + 8] = ninth;
      sync_block();
      const int each = group_vectors / lanes, groups = int(p.groups);
      for (int j = threadIdx.x; j < work.slots * groups * taps; j += blockDim.x) {
        const int k = j % taps, g = j / taps % groups, at = tile * work.length + i + j / taps / groups;
        if (at >= height * width) continue;
        float total = 0;
        for (int n = 0; n < each; ++n) total += sums[(j / taps * each + n) * taps + k];
        put_spatial(to.spatial, p, b, g, k, at / width, at % width, total);
      }
    }
  }
  if constexpr (Op::kChannel)
    if (to.channel.is_wanted()) {
      const int all = work.vectors * kVector;
#pragma unroll
      for (int k = 0; k < taps; ++k) {
        sync_block();
#pragma unroll
        for (int v = 0; v < kVector; ++v) shared[slot * all + c + v] = dc[k][v];
        sync_block();
        for (int j = threadIdx.x; j < all; j += blockDim.x) {
          float total = 0;
          for (int n = 0; n < work.slots; ++n) total += shared[n * all + j];
          to.channel.put(tile, (b * all + j) * taps + k, total);
        }
      }
    }
}

template <class T>
bool can_backward_pixels(const Filter2dParams& p, const Operands& o) {
  const int64_t vectors = p.channels / kVector, group = p.group_channels() / kVector;
  const bool lanes = group % 32 == 0 || ((group == 8 || group == 16) && vectors % 8 == 0);
  return p.kh == 3 && p.kw == 3 && p.group_channels() % kVector == 0 && lanes && vectors <= kPixelThreads &&
         kPixelThreads / vectors * vectors % 32 == 0 && has_vectors<T>(o.x, p.xs) && has_vectors<T>(o.grad, p.ys) &&
         (!o.grad_x || has_vectors<T>(o.grad_x, p.gs));
}

inline Pixels pixels_backward_work(const Filter2dParams& p) {
  Pixels work{};
  work.vectors = int(p.channels) / kVector, work.slots = kPixelThreads / work.vectors, work.parts = 1;
  const int64_t positions = p.height * p.width;
  const int64_t rounds = p.batch * positions / (work.slots * 384);  // where 384 blocks share them
  work.length = int(std::clamp<int64_t>(rounds, 4, 128)) * work.slots;
  work.tiles = ceil_div(positions, work.length);
  return work;
}

template <class T, class Op>
void backward_pixels(const Filter2dParams& p, const Operands& operands, Stream stream) {
  const Typed<T> o(operands);
  const Pixels work = pixels_backward_work(p);
  const TapTargets<T> to = tap_targets<T>(p, operands, {1, work.tiles});
  const int sums = 2 * work.threads() / 8 * 9, slots = work.threads() * kVector;
  launch(pixels_backward<T, Op>, dim3(unsigned(p.batch * work.tiles)), dim3(work.threads()),
         std::max(sums, slots) * sizeof(float), stream, p, work, o.x, o.raw, o.grad,
         o.grad_x, to);
}

}  // namespace dynfilters::cuda
