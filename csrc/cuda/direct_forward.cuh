// Forward for square kernels of 3, 5 and 7, any strides, stride, dilation and scale: a thread owns
// one output position and keeps its activated spatial taps in registers for all channels of the block.
// Neighbouring threads own neighbouring pixels of a row, so memory of rows is read in whole lines.
//
// Accumulation: float32, taps in row-major order, whatever the cut into blocks: deterministic.
// Every output is written once.
#pragma once
#include "../filter2d.h"
#include "storage.cuh"
#include "work.cuh"

namespace dynfilters::cuda {

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

}  // namespace dynfilters::cuda
