// Backward in one pass for what staged_forward takes: a thread owns four pixels q of x in a row and
// the taps that read them, S[k, q - k], and finds their products with g[q - k] in a tile of g.
//
// Accumulation and determinism: as in direct_backward.cuh, but that a thread adds what its four
// pixels give to grad channel first, in their order.
#pragma once
#include "../filter2d.h"
#include "generic_launch.cuh"
#include "reduce.cuh"
#include "staged.cuh"

namespace dynfilters::cuda {

constexpr int kStagedBackwardThreads = 256;

// Four spatial taps of a row that need not be aligned; zero outside.
template <class T>
__device__ __forceinline__ void read_shifted(const T* from, int x, int width, bool row, float (&to)[kRun]) {
#pragma unroll
  for (int v = 0; v < kRun; ++v) to[v] = row && unsigned(x + v) < unsigned(width) ? read(from + x + v) : 0.f;
}

// Activates them, where `filter` is the row's first one.
template <class Activation>
__device__ __forceinline__ void finish_shifted(const Activation& how, int64_t filter, int x, int width, bool row,
                                               float (&taps)[kRun]) {
#pragma unroll
  for (int v = 0; v < kRun; ++v)
    if (row && unsigned(x + v) < unsigned(width)) taps[v] = how.finish_at(taps[v], filter + x + v);
}

template <class T, class Op>
__global__ void __launch_bounds__(kStagedBackwardThreads, 1)
    staged_backward(Filter2dParams p, Work work, const T* x, RawTaps<T> raw, const T* grad, T* grad_x,
                    TapTargets<T> to) {
  constexpr int K = 3, taps = K * K;
  const Block block(work, p);
  const int warps = int(blockDim.x) / 32, pitch = work.tile_columns + 2 * kRun;
  T* stages = shared_memory<T>();
  float* sums = shared_memory<float>() + kStages * stage_bytes<T>(work) / 4;  // two rounds of the warps' sums
  float* channel_taps = sums + (2 * warps * taps + 3) / 4 * 4;
  const int height = int(p.height), width = int(p.width);
  Loader<T> loader(work, block, grad + block.b * p.ys[0] + block.first * p.ys[1], p.ys, height, width, stages);
  for (int round = 0; round < kStages - 1; ++round) loader.start(round, block.channels);
  if constexpr (Op::kChannel) stage_channel_taps<taps>(p, block, raw, channel_taps);
  const int slice = int(threadIdx.x) / work.lanes, lane = int(threadIdx.x) % work.lanes;
  int qy, qx;
  const bool active = work.locate(block.tile, lane * kRun, height, width, qy, qx);
  float s[taps][kRun] = {}, ds[taps][kRun] = {};
  if constexpr (Op::kSpatial) {
    const T* spatial = raw.spatial + block.b * p.ss[0] + block.g * p.ss[1];
#pragma unroll
    for (int k = 0; k < taps; ++k) {
      const int oy = qy - (k / K - 1);
      const bool row = active && unsigned(oy) < unsigned(height);
      read_shifted(spatial + k * p.ss[2] + oy * p.ss[3], qx - (k % K - 1), width, row, s[k]);
    }
    const int64_t filter = (block.b * p.groups + block.g) * height * width;
    raw.of_spatial.with([&](const auto& how) {
#pragma unroll
      for (int k = 0; k < taps; ++k) {
        const int oy = qy - (k / K - 1);
        const bool row = active && unsigned(oy) < unsigned(height);
        finish_shifted(how, filter + oy * width, qx - (k % K - 1), width, row, s[k]);
      }
    });
  }
  const int runs = work.tile_columns / kRun, window_at = lane / runs * pitch + (lane % runs + 1) * kRun;
  const int64_t c0 = block.first + slice;
  x += block.b * p.xs[0] + c0 * p.xs[1] + qy * p.xs[2] + qx;
  if (grad_x) grad_x += block.b * p.gs[0] + c0 * p.gs[1] + qy * p.gs[2] + qx;
  const bool needs_x = to.spatial.is_wanted() || to.channel.is_wanted();
  const int rounds = (block.channels + work.slices - 1) / work.slices;
  using Raw = Word<kRun * int(sizeof(T))>;
  Raw next{};
  if (active && needs_x && slice < block.channels) next = load_cached(reinterpret_cast<const Raw*>(x));
  for (int round = 0; round < rounds; ++round) {
    const int c = round * work.slices + slice;
    const bool here = active && c < block.channels;
    wait_copies<kStages - 2>();
    sync_block();  // this round's stage has landed, the last round's is free
    loader.start(round + kStages - 1, block.channels);
    float centre[kRun], dc[taps] = {};
    word_to_acc<kRun, T>(next, centre);
    x += work.slices * p.xs[1];
    if (active && needs_x && c + work.slices < block.channels) next = load_cached(reinterpret_cast<const Raw*>(x));
    if (here) {
      const T* window = loader.tile(round) + window_at;
      float totals[kRun] = {}, weights[taps] = {};
      if constexpr (Op::kChannel) read_taps(channel_taps + c * padded(taps), weights);
#pragma unroll
      for (int ky = 0; ky < K; ++ky) {
        float row[kRun + 2];
        read_window(window + (K - 1 - ky) * pitch, row);
#pragma unroll
        for (int kx = 0; kx < K; ++kx) {
          const int k = ky * K + kx;
#pragma unroll
          for (int v = 0; v < kRun; ++v) {
            const float g = row[v + K - 1 - kx];
            totals[v] += Op::tap(s[k][v], weights[k]) * g;
            if constexpr (Op::kSpatial) ds[k][v] += Op::d_spatial(centre[v] * g, weights[k]);
            if constexpr (Op::kChannel) dc[k] += Op::d_channel(centre[v] * g, s[k][v]);
          }
        }
      }
      if (grad_x) write(grad_x, totals);
    }
    if (grad_x) grad_x += work.slices * p.gs[1];
    if (Op::kChannel && to.channel.is_wanted()) {
      float* round_sums = sums + round % 2 * warps * taps;
      store_warp_sums<taps>(dc, round_sums + int(threadIdx.x) / 32 * taps);
      sync_block();
      put_channel<taps>(to.channel, work, block, round, round_sums);
    }
  }
  if constexpr (Op::kSpatial)
    if (to.spatial.is_wanted())
#pragma unroll
      for (int ky = 0; ky < K; ++ky) {
        const int pixels = work.lanes * kRun;
        float* row = shared_memory<float>();  // the stages are free by now
        sync_block();
#pragma unroll
        for (int kx = 0; kx < K; ++kx)
#pragma unroll
          for (int v = 0; v < kRun; ++v) row[(slice * K + kx) * pixels + lane * kRun + v] = ds[ky * K + kx][v];
        sync_block();
        put_spatial_row<K>(to.spatial, p, work, block, ky, pixels, row);
      }
}

template <class T>
bool can_stage_backward(const Filter2dParams& p, const Operands& o) {
  return p.kh == 3 && p.kw == 3 && p.stride == 1 && p.dilation == 1 && p.scale == 1 && p.width % kRun == 0 &&
         has_runs<T>(o.x, p.xs, 4) && has_runs<T>(o.grad, p.ys, 4) &&
         (!o.grad_x || has_runs<T>(o.grad_x, p.gs, 4));
}

inline Work staged_backward_work(const Filter2dParams& p) {
  Work work = staged_work(p, kStagedBackwardThreads, 128);
  split_channels(work, p, int64_t(1) << 15, most_channels(p), 4);
  return work;
}

template <class T, class Op>
void backward_staged(const Filter2dParams& p, const Operands& operands, Stream stream) {
  const Typed<T> o(operands);
  const Work work = staged_backward_work(p);
  const TapTargets<T> to = tap_targets<T>(p, operands, {work.splits, work.tiles});
  const int sums = (2 * work.threads() / 32 * 9 + 3) / 4 * 4, taps = Op::kChannel ? work.range * padded(9) : 0;
  const int rows = Op::kSpatial ? work.slices * 3 * work.lanes * kRun : 0;
  const int bytes = std::max(kStages * stage_bytes<T>(work) + (sums + taps) * 4, rows * 4);
  launch(staged_backward<T, Op>, dim3(unsigned(work.blocks(p))), dim3(work.threads()), bytes, stream, p, work,
         o.x, o.raw, o.grad, o.grad_x, to);
}

}  // namespace dynfilters::cuda
