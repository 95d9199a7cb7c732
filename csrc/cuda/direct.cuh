// Kernels for square filters of 3, 5 and 7 and any strides, in which a thread owns one position.
#pragma once
#include "reduce.cuh"

namespace dynfilters::cuda {

// ---- forward ----
//
// For any stride, dilation and scale. The thread's position is one of outputs, whose activated spatial taps it keeps in
// registers for all channels of the block. Neighbouring threads own neighbouring pixels of a row, so rows are read in
// whole lines of memory.
//
// Accumulation: float32, taps in row-major order, whatever the cut into blocks: deterministic.
// Every output is written once.

constexpr int kDirectThreads = 256;

template <class T, class Op, int K>
__global__ void __launch_bounds__(kDirectThreads, K == 3 ? 4 : 2)
    direct_forward(Filter2dParams p, Work work, const T* x, RawTaps<T> raw, T* y) {
  constexpr int taps = K * K;
  const Block block(work, p);
  float* channel_taps = shared_memory<float>();
  if constexpr (Op::kChannel) {
    stage_channel_taps<taps>(p, block, raw, channel_taps);
    sync_block();
  }
  const int scale = int(p.scale), width = int(p.cols) * scale, height = int(p.rows) * scale;
  const int slice = int(threadIdx.x) / work.lanes, lane = int(threadIdx.x) % work.lanes;
  int oy, ox;
  if (!work.locate(block.tile, lane, height, width, oy, ox) || slice >= work.slices) return;
  const int phase = p.channel_phases > 1 ? oy % scale * scale + ox % scale : 0;
  const int step = int(p.dilation), stride = int(p.stride);
  const int top = oy / scale * stride - step * (K / 2), left = ox / scale * stride - step * (K / 2);
  const int column_step = int(p.xs[3]) * step, row_step = int(p.xs[2]) * step - (K - 1) * column_step;
  float s[taps];
  bool rows[K], columns[K];
#pragma unroll
  for (int k = 0; k < K; ++k) {
    rows[k] = unsigned(top + k * step) < unsigned(p.height);
    columns[k] = unsigned(left + k * step) < unsigned(p.width);
  }
  if constexpr (Op::kSpatial) {
    const T* spatial = raw.spatial + block.b * p.ss[0] + block.g * p.ss[1] + oy * p.ss[3] + ox * p.ss[4];
#pragma unroll
    for (int k = 0; k < taps; ++k) s[k] = read(spatial + k * p.ss[2]);
    raw.of_spatial.template activate<taps>(taps, [&](int k) -> float& { return s[k]; });
  }
  x += block.b * p.xs[0] + (block.first + slice) * p.xs[1] + top * p.xs[2] + left * p.xs[3];
  y += block.b * p.ys[0] + (block.first + slice) * p.ys[1] + oy * p.ys[2] + ox * p.ys[3];
  channel_taps += (slice * int(p.channel_phases) + phase) * padded(taps);
#pragma unroll(K == 3 ? 2 : 1)
  for (int c = slice; c < block.channels; c += work.slices) {
    float total = 0, four[4] = {};
    const T* under = x;  // the tap's pixel, by steps: the taps' offsets would fill the registers
#pragma unroll
    for (int k = 0; k < taps; ++k) {
      if (Op::kChannel && k % 4 == 0) read_shared(channel_taps + k, four);
      const bool inside = rows[k / K] && columns[k % K];
      const float value = inside ? read(under) : 0.f;
      under += k % K < K - 1 ? column_step : row_step;
      total += Op::tap(Op::kSpatial ? s[k] : 0.f, four[k % 4]) * value;
    }
    *y = from_acc<T>(total);
    x += work.slices * p.xs[1], y += work.slices * p.ys[1];
    channel_taps += work.slices * int(p.channel_phases) * padded(taps);
  }
}

inline Work direct_forward_work(const Filter2dParams& p) {
  Work work{};
  const int64_t positions = p.rows * p.cols * p.scale * p.scale;
  work.tiles = ceil_div(positions, kDirectThreads);
  work.lanes = ceil_div(positions, work.tiles);
  work.slices = int(std::min<int64_t>(kDirectThreads / work.lanes, p.group_channels()));
  split_channels(work, p, int64_t(1) << 18, most_channels(p), 2);
  return work;
}

template <class T, class Op, int K>
void forward_direct(const Filter2dParams& p, const Operands& operands, Stream stream) {
  const Typed<T> o(operands);
  const Work work = direct_forward_work(p);
  const size_t shared = Op::kChannel ? size_t(work.range) * p.channel_phases * padded(K * K) * sizeof(float) : 0;
  launch(direct_forward<T, Op, K>, dim3(unsigned(work.blocks(p))), dim3(work.threads()), shared, stream, p, work, o.x,
         o.raw, o.y);
}

// ---- backward ----
//
// In one pass, for stride 1, scale 1 and any dilation. A thread owns the pixel q of x, and the taps that read it,
// S[k, q - k]: their products with g[q - k] give grad x at q, and what q adds to grad spatial and grad channel.
//
// Accumulation: float32. grad x over taps in order; grad spatial over the channels of a slice in
// order, then slices in order, then blocks in order (a second kernel); grad channel over the pixels
// of a warp by a butterfly, then warps, then tiles in order (the same second kernel). The cut into
// these depends on the problem alone: deterministic. Every element is written once.

__host__ __device__ constexpr int direct_backward_threads(int kernel) { return kernel == 3 ? 512 : 256; }

template <class T, class Op, int K>
__global__ void __launch_bounds__(direct_backward_threads(K), 1)
    direct_backward(Filter2dParams p, Work work, const T* x, RawTaps<T> raw, const T* grad, T* grad_x,
                    TapTargets<T> to) {
  constexpr int taps = K * K;
  const Block block(work, p);
  const int warps = work.lanes / 32 * work.slices;  // two rounds of their sums, then the taps
  float* sums = shared_memory<float>();
  float* channel_taps = sums + (2 * warps * taps + 3) / 4 * 4;
  if constexpr (Op::kChannel) {
    stage_channel_taps<taps>(p, block, raw, channel_taps);
    sync_block();
  }
  const int height = int(p.height), width = int(p.width), step = int(p.dilation);
  const int slice = int(threadIdx.x) / work.lanes, lane = int(threadIdx.x) % work.lanes;
  int qy, qx;
  const bool active = work.locate(block.tile, lane, height, width, qy, qx);
  bool rows[K], columns[K];  // whether the window of output q - k exists
#pragma unroll
  for (int k = 0; k < K; ++k) {
    rows[k] = active && unsigned(qy - step * (k - K / 2)) < unsigned(height);
    columns[k] = unsigned(qx - step * (k - K / 2)) < unsigned(width);
  }
  float s[taps], ds[taps] = {};
  if constexpr (Op::kSpatial) {
    const T* spatial = raw.spatial + block.b * p.ss[0] + block.g * p.ss[1];
#pragma unroll
    for (int k = 0; k < taps; ++k) {
      const int oy = qy - step * (k / K - K / 2), ox = qx - step * (k % K - K / 2);
      s[k] = rows[k / K] && columns[k % K] ? read(spatial + k * p.ss[2] + oy * p.ss[3] + ox * p.ss[4]) : 0.f;
    }
    const int64_t filter = (block.b * p.groups + block.g) * height * width;
    raw.of_spatial.with([&](const auto& how) {
#pragma unroll
      for (int k = 0; k < taps; ++k) {
        const int oy = qy - step * (k / K - K / 2), ox = qx - step * (k % K - K / 2);
        if (rows[k / K] && columns[k % K]) s[k] = how.finish_at(s[k], filter + oy * width + ox);
      }
    });
  }
  const int64_t c0 = block.first + slice;
  const int column_step = -int(p.ys[3]) * step, row_step = -int(p.ys[2]) * step - (K - 1) * column_step;
  grad += block.b * p.ys[0] + c0 * p.ys[1] + (qy + step * (K / 2)) * p.ys[2] + (qx + step * (K / 2)) * p.ys[3];
  x += block.b * p.xs[0] + c0 * p.xs[1] + qy * p.xs[2] + qx * p.xs[3];
  const bool needs_x = to.spatial.is_wanted() || to.channel.is_wanted();
  if (grad_x) grad_x += block.b * p.gs[0] + c0 * p.gs[1] + qy * p.gs[2] + qx * p.gs[3];
  const int rounds = (block.channels + work.slices - 1) / work.slices;
  for (int round = 0; round < rounds; ++round) {
    const int c = round * work.slices + slice;
    const bool here = active && c < block.channels;
    const float centre = here && needs_x ? read(x) : 0.f;
    float total = 0, four[4] = {}, dc[taps];
    const T* over = grad;
#pragma unroll
    for (int k = 0; k < taps; ++k) {
      if (Op::kChannel && k % 4 == 0 && c < block.channels) read_shared(channel_taps + c * padded(taps) + k, four);
      const float sk = Op::kSpatial ? s[k] : 0.f;
      const float g = here && rows[k / K] && columns[k % K] ? read(over) : 0.f;
      over += k % K < K - 1 ? column_step : row_step;
      total += Op::tap(sk, four[k % 4]) * g;
      if constexpr (Op::kSpatial) ds[k] += Op::d_spatial(centre * g, four[k % 4]);
      if constexpr (Op::kChannel) dc[k] = Op::d_channel(centre * g, sk);
    }
    if (grad_x && here) *grad_x = from_acc<T>(total);
    if (Op::kChannel && to.channel.is_wanted()) {
      float* round_sums = sums + round % 2 * warps * taps;
      store_warp_sums<taps>(dc, round_sums + int(threadIdx.x) / 32 * taps);
      sync_block();
      put_channel<taps>(to.channel, work, block, round, round_sums);
    }
    grad += work.slices * p.ys[1], x += work.slices * p.xs[1];
    if (grad_x) grad_x += work.slices * p.gs[1];
  }
  if constexpr (Op::kSpatial)
    if (to.spatial.is_wanted())
#pragma unroll
      for (int ky = 0; ky < K; ++ky) {
        sync_block();
#pragma unroll
        for (int kx = 0; kx < K; ++kx) sums[(slice * K + kx) * work.lanes + lane] = ds[ky * K + kx];
        sync_block();
        put_spatial_row<K>(to.spatial, p, work, block, ky, work.lanes, sums);
      }
}

// Channels that a block's slices take in turns, and threads enough for the device.
inline Work direct_backward_work(const Filter2dParams& p) {
  Work work{};
  const int64_t positions = p.height * p.width;
  const int most = direct_backward_threads(int(p.kh));
  work.tiles = ceil_div(positions, 256);
  work.lanes = ceil_div(ceil_div(positions, work.tiles), 32) * 32;
  work.slices = int(std::min<int64_t>(most / work.lanes, p.group_channels()));
  split_channels(work, p, int64_t(1) << 17, most_channels(p), 4);
  return work;
}

template <class T, class Op, int K>
void backward_direct(const Filter2dParams& p, const Operands& operands, Stream stream) {
  const Typed<T> o(operands);
  const Work work = direct_backward_work(p);
  const TapTargets<T> to = tap_targets<T>(p, operands, {work.splits, work.tiles});
  const int sums = (2 * work.threads() / 32 * K * K + 3) / 4 * 4;
  const int taps = Op::kChannel ? work.range * padded(K * K) : 0;
  const int slices = Op::kSpatial ? work.slices * K * work.lanes : 0;
  launch(direct_backward<T, Op, K>, dim3(unsigned(work.blocks(p))), dim3(work.threads()),
         std::max(sums + taps, slices) * sizeof(float), stream, p, work, o.x, o.raw,
         o.grad, o.grad_x, to);
}

}  // namespace dynfilters::cuda
