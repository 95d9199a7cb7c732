// Kernels for 3×3 filters, stride, dilation and scale 1, and rows that are whole runs of four pixels: tiles of planes
// are in shared memory, a thread owns four neighbours, and copies of the next rounds of channels are under way while it
// computes.
//
// A stage holds one plane's tile and its border of one pixel for each slice, as rows of
// tile_columns + 8 elements: a run on either side keeps every copy and every read aligned.
#pragma once
#include "reduce.cuh"

namespace dynfilters::cuda {

constexpr int kRun = 4, kStages = 4;

struct Tile {
  int pitch, rows, elements;  // of a slice's tile in a stage
  __host__ __device__ explicit Tile(const Work& work)
      : pitch(work.tile_columns + 2 * kRun), rows(work.tile_rows + 2), elements(pitch * rows) {}
};

template <class T>
__host__ __device__ constexpr int stage_bytes(const Work& work) {
  return (Tile(work).elements * work.slices * int(sizeof(T)) + 15) / 16 * 16;
}

// Copies tiles of (batch, channel) planes whose rows are whole runs.
template <class T>
class Loader {
 public:
  // plane: of the block's first channel. A thread copies the same column of runs in every round.
  __device__ __forceinline__ Loader(const Work& work, const Block& block, const T* plane, const int64_t* strides,
                                    int height, int width, T* stages)
      : tile_(work), stages_(stages), channel_step_(strides[1]), row_step_(int(strides[2])), height_(height) {
    const int lane = int(threadIdx.x) % work.lanes, runs = tile_.pitch / kRun, column = lane % runs;
    slice_ = int(threadIdx.x) / work.lanes;
    each_ = work.lanes / runs;
    first_ = lane / runs < each_ ? lane / runs : tile_.rows;
    top_ = block.tile / work.tiles_across * work.tile_rows - 1;
    const int x = block.tile % work.tiles_across * work.tile_columns + (column - 1) * kRun;
    inside_ = x >= 0 && x < width;
    from_ = plane + slice_ * channel_step_ + int64_t(top_) * row_step_ + x;
    to_ = slice_ * tile_.elements + column * kRun;
    stage_elements_ = stage_bytes<T>(work) / int(sizeof(T));
    slices_ = work.slices;
  }
  // Starts the copies of a round, if it has a channel for this slice; ends their group either way.
  __device__ __forceinline__ void start(int round, int channels) {
    if (round * slices_ + slice_ < channels) {
      const T* from = from_ + int64_t(round) * slices_ * channel_step_;
      T* to = stages_ + round % kStages * stage_elements_ + to_;
      for (int row = first_; row < tile_.rows; row += each_) {
        const bool valid = inside_ && unsigned(top_ + row) < unsigned(height_);
        copy_async<kRun * int(sizeof(T))>(to + row * tile_.pitch, from + int64_t(row) * row_step_, valid);
      }
    }
    commit_copies();
  }
  // The slice's tile in a round whose copies have landed.
  __device__ __forceinline__ const T* tile(int round) const {
    return stages_ + round % kStages * stage_elements_ + slice_ * tile_.elements;
  }

 private:
  Tile tile_;
  T* stages_;
  const T* from_;
  int64_t channel_step_;
  int row_step_, height_, slice_, slices_, each_, first_, top_, to_, stage_elements_;
  bool inside_;
};

// Six neighbours of a row: the thread's run and one more on either side.
template <class T>
__device__ __forceinline__ void read_window(const T* run, float (&window)[kRun + 2]) {
  float four[kRun];
  read_shared(run, four);
  window[0] = to_acc(run[-1]);
#pragma unroll
  for (int i = 0; i < kRun; ++i) window[i + 1] = four[i];
  window[kRun + 1] = to_acc(run[kRun]);
}

// Rows of whole aligned runs, for a pointer and the strides (b, c, h, w) that go with it.
template <class T>
bool has_runs(const void* pointer, const int64_t* strides, int axes) {
  bool whole = reinterpret_cast<uintptr_t>(pointer) % (kRun * sizeof(T)) == 0 && strides[axes - 1] == 1;
  for (int i = 0; i + 1 < axes; ++i) whole = whole && strides[i] % kRun == 0;
  return whole;
}

inline bool has_whole_runs(const Filter2dParams& p) {
  return p.kh == 3 && p.kw == 3 && p.stride == 1 && p.dilation == 1 && p.scale == 1 && p.width % kRun == 0;
}

// Tiles of up to `most` runs; smaller ones where that makes `wanted` blocks of the channels of a
// group, though not below four rows.
inline Work staged_work(const Filter2dParams& p, int most, int64_t wanted) {
  Work work{};
  const int runs = int(p.width) / kRun;
  work.tiles_across = ceil_div(runs, 32);
  const int across = ceil_div(runs, work.tiles_across);
  int down = ceil_div(p.height, std::min<int64_t>(most / across, p.height));
  while (p.batch * p.groups * work.tiles_across * down < wanted && ceil_div(p.height, down) > 4) ++down;
  work.tile_rows = ceil_div(p.height, down);
  work.tile_columns = across * kRun;
  work.tiles = work.tiles_across * ceil_div(p.height, work.tile_rows);
  work.lanes = ceil_div(std::max(across * work.tile_rows, across + 2), 32) * 32;
  work.slices = int(std::min<int64_t>(std::max(most / work.lanes, 1), p.group_channels()));
  return work;
}

// ---- forward ----
//
// The taps of a thread's four pixels stay in registers for all channels of the block.
//
// Accumulation: float32, taps in row-major order, whatever the cut into blocks: deterministic.
// Every output is written once.

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
  return has_whole_runs(p) && has_runs<T>(o.x, p.xs, 4) && has_runs<T>(o.y, p.ys, 4) &&
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

// ---- backward ----
//
// In one pass: a thread owns four pixels q of x in a row and the taps that read them, S[k, q - k], and
// finds their products with g[q - k] in a tile of g.
//
// Accumulation and determinism: as in direct.cuh, but that a thread adds what its four
// pixels give to grad channel first, in their order.

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
  return has_whole_runs(p) && has_runs<T>(o.x, p.xs, 4) && has_runs<T>(o.grad, p.ys, 4) &&
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
