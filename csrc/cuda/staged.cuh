// Tiles of planes in shared memory, for rows that are whole runs of four pixels: a thread owns four
// neighbours, and copies of the next rounds of channels are on their way while it computes.
//
// A stage holds one plane's tile and its border of one pixel for each slice, as rows of
// tile_columns + 8 elements: a run on either side keeps every copy and every read aligned.
#pragma once
#include "work.cuh"

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

}  // namespace dynfilters::cuda
