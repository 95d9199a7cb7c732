// Forward for channels_last: kernels of 3, 5 and 7, any stride, dilation and scale, without phases.
// A warp reads whole lines of neighbouring channels, and one spatial tap for all of them. Channel
// taps stay in registers (3×3) or in shared memory.
//
// Accumulation: float32, taps in row-major order: deterministic. Every output is written once.
#pragma once
#include "../filter2d.h"
#include "pixels.cuh"

namespace dynfilters::cuda {

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

}  // namespace dynfilters::cuda
