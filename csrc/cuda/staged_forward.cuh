// Forward for 3×3 kernels, stride, dilation and scale 1, and rows of whole runs of four pixels. The
// taps of a thread's four pixels stay in registers for all channels of the block.
//
// Accumulation: float32, taps in row-major order, whatever the cut into blocks: deterministic.
// Every output is written once.
#pragma once
#include "../filter2d.h"
#include "staged.cuh"
#include "storage.cuh"

namespace dynfilters::cuda {

constexpr int kStagedThreads = 256;

template <class T, class Op>
__global__ void __launch_bounds__(kStagedThreads, Op::kChannel ? 2 : 3)
    staged_forward(Filter2dParams p, Work work, const T* x, RawTaps<T> raw, T* y) {
  constexpr int K = 3, taps = K * K;
  const Block block(work, p);
  T* stages = shared_memory<T>();
  float* channel_taps = shared_memory<float>() + kStages * stage_bytes<T>(work) / 4;
  const int height = int(p.height), width = int(p.width);
  Loader<T> loader(work, block, x + block.b * p.xs[0] + block.first * p.xs[1], p.xs, height, width, stages);
  for (int round = 0; round < kStages - 1; ++round) loader.start(round, block.channels);
  if constexpr (Op::kChannel) stage_channel_taps<taps>(p, block, raw, channel_taps);
  const int slice = int(threadIdx.x) / work.lanes, lane = int(threadIdx.x) % work.lanes;
  int oy, ox;
  const bool active = work.locate(block.tile, lane * kRun, height, width, oy, ox);
  float s[taps][kRun];
  if constexpr (Op::kSpatial) {
    const T* spatial = raw.spatial + block.b * p.ss[0] + block.g * p.ss[1] + oy * p.ss[3] + ox;
#pragma unroll
    for (int k = 0; k < taps; ++k)
      if (active) read(spatial + k * p.ss[2], s[k]);
    if (active)
#pragma unroll
      for (int v = 0; v < kRun; ++v)
        raw.of_spatial.template activate<taps>(taps, [&](int k) -> float& { return s[k][v]; });
  }
  const int runs = work.tile_columns / kRun, pitch = work.tile_columns + 2 * kRun;
  const int window_at = lane / runs * pitch + (lane % runs + 1) * kRun;
  y += block.b * p.ys[0] + (block.first + slice) * p.ys[1] + oy * p.ys[2] + ox;
  const int rounds = (block.channels + work.slices - 1) / work.slices;
  for (int round = 0; round < rounds; ++round) {
    const int c = round * work.slices + slice;
    wait_copies<kStages - 2>();
    sync_block();  // this round's stage has landed, the last round's is free
    loader.start(round + kStages - 1, block.channels);
    if (active && c < block.channels) {
      const T* window = loader.tile(round) + window_at;
      float totals[kRun] = {}, weights[taps] = {};
      if constexpr (Op::kChannel) read_taps(channel_taps + c * padded(taps), weights);
#pragma unroll
      for (int ky = 0; ky < K; ++ky) {
        float row[kRun + 2];
        read_window(window + ky * pitch, row);
#pragma unroll
        for (int kx = 0; kx < K; ++kx)
#pragma unroll
          for (int v = 0; v < kRun; ++v) {
            const float sk = Op::kSpatial ? s[ky * K + kx][v] : 0.f;
            totals[v] += Op::tap(sk, weights[ky * K + kx]) * row[v + kx];
          }
      }
      write(y, totals);
    }
    y += work.slices * p.ys[1];
  }
}

template <class T>
bool can_stage_forward(const Filter2dParams& p, const Operands& o) {
  return p.kh == 3 && p.kw == 3 && p.stride == 1 && p.dilation == 1 && p.scale == 1 && p.width % kRun == 0 &&
         has_runs<T>(o.x, p.xs, 4) && has_runs<T>(o.y, p.ys, 4) &&
         (!p.has_spatial() || has_runs<T>(o.spatial, p.ss, 5));
}

template <class T, class Op>
void forward_staged(const Filter2dParams& p, const Operands& operands, Stream stream) {
  const Typed<T> o(operands);
  Work work = staged_work(p, kStagedThreads, 0);
  split_channels(work, p, int64_t(1) << 17, most_channels(p), 4);
  const int taps = Op::kChannel ? work.range * padded(9) * int(sizeof(float)) : 0;
  launch(staged_forward<T, Op>, dim3(unsigned(work.blocks(p))), dim3(work.threads()),
         kStages * stage_bytes<T>(work) + taps, stream, p, work, o.x, o.raw, o.y);
}

}  // namespace dynfilters::cuda
