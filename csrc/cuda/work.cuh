// How a call is cut into blocks of threads by the kernels that keep taps in registers.
//
// A block has `lanes` threads for a tile of positions of the plane, times `slices`: slice z takes
// channels z, z + slices, … of the block's `range` of channels in a group. The cut depends on the
// parameters of the call alone, so that sums have one order whatever the device.
#pragma once
#include <algorithm>
#include <cstdlib>

#include "operands.cuh"

namespace dynfilters::cuda {

struct Work {
  int lanes, slices, tiles;  // tiles: of a plane
  int range, splits;         // channels of a block, blocks that share the channels of a group
  // Where a tile is a rectangle: its size in pixels, and how many are side by side. Else zeros, and
  // a tile is a run of pixels, one for each lane.
  int tile_rows, tile_columns, tiles_across;

  int threads() const { return (lanes * slices + 31) / 32 * 32; }
  int64_t blocks(const Filter2dParams& p) const { return p.batch * p.groups * splits * tiles; }

  // The row and column of a tile's pixel; whether there is one.
  __device__ __forceinline__ bool locate(int tile, int pixel, int height, int width, int& y, int& x) const {
    if (tile_columns) {
      y = tile / tiles_across * tile_rows + pixel / tile_columns;
      x = tile % tiles_across * tile_columns + pixel % tile_columns;
      return pixel < tile_rows * tile_columns && y < height && x < width;
    }
    const int position = tile * lanes + pixel;
    y = position / width, x = position % width;
    return y < height;
  }
};

constexpr int ceil_div(int64_t a, int64_t b) { return int((a + b - 1) / b); }

// range channels a block at most, few enough for `wanted` threads on the device.
inline void split_channels(Work& work, const Filter2dParams& p, int64_t wanted, int most, int least_each) {
  const int64_t channels = p.group_channels();
  const int64_t threads = p.batch * p.groups * work.tiles * work.lanes * work.slices;
  int64_t splits = std::max<int64_t>(ceil_div(wanted, std::max<int64_t>(threads, 1)), ceil_div(channels, most));
  const int64_t useful = ceil_div(channels, int64_t(work.slices) * least_each);
  splits = std::max<int64_t>(std::min(splits, useful), ceil_div(channels, most));
  work.range = ceil_div(channels, splits);
  work.splits = ceil_div(channels, work.range);
}

// A block's place in that cut.
struct Block {
  int tile, split;
  int64_t g, b;
  int64_t first;  // of its channels
  int channels;   // how many
  int64_t row;    // of the first one among those of all samples

  __device__ __forceinline__ Block(const Work& work, const Filter2dParams& p) {
    const int group_channels = int(p.channels / p.groups);
    unsigned i = blockIdx.x;
    tile = int(i % work.tiles), i /= work.tiles;
    split = int(i % work.splits), i /= work.splits;
    g = i % unsigned(p.groups), b = i / unsigned(p.groups);
    first = g * group_channels + split * work.range;
    const int left = group_channels - split * work.range;
    channels = left < work.range ? left : work.range;
    row = b * p.channels + first;
  }
};

// Shared memory holds the taps of a channel in rows of whole 16-byte words.
__host__ __device__ constexpr int padded(int taps) { return (taps + 3) / 4 * 4; }

constexpr int kTapBytes = 24 * 1024;  // of shared memory for channel taps: eight blocks fit

inline int most_channels(const Filter2dParams& p) {
  const int64_t each = p.has_channel() ? p.channel_phases * padded(int(p.taps())) * 4 : 0;
  return each ? int(std::max<int64_t>(kTapBytes / each, 1)) : 1 << 20;
}

// The block's channel taps, activated, to shared memory: [channel][phase][padded tap]. Every thread
// comes here; they are there after the next barrier.
template <int Taps, class T>
__device__ __forceinline__ void stage_channel_taps(const Filter2dParams& p, const Block& block, const RawTaps<T>& raw,
                                                   float* to) {
  const int phases = int(p.channel_phases), each = phases * Taps;
  const T* channel = raw.channel + block.b * p.cs[0] + block.first * p.cs[1];
  for (int i = threadIdx.x; i < block.channels * each; i += blockDim.x) {
    const int c = i / each, k = i % each / phases, phase = i % phases;
    to[(c * phases + phase) * padded(Taps) + k] = read(channel + c * p.cs[1] + k * p.cs[2] + phase * p.cs[3]);
  }
  if (!raw.changes_channel()) return;
  sync_block();
  for (int i = threadIdx.x; i < block.channels * phases; i += blockDim.x) {
    float* taps = to + i * padded(Taps);
    raw.template activate_channel<1>(block.first + i / phases, Taps, i % phases,
                                     [&](int k) -> float& { return taps[k]; });
  }
}

template <int Taps>
__device__ __forceinline__ void read_taps(const float* from, float (&taps)[Taps]) {
#pragma unroll
  for (int i = 0; i < padded(Taps); i += 4) {
    float four[4];
    read_shared(from + i, four);
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (i + j < Taps) taps[i + j] = four[j];
  }
}

// ---- calls that the fast kernels can take ----

// Kernels that with_kernel has a template for.
inline bool has_fixed_kernel(const Filter2dParams& p) { return p.kh == p.kw && (p.kh == 3 || p.kh == 5 || p.kh == 7); }

// Offsets within a plane, and counts of blocks, that do not overflow 32 bits.
inline bool is_small(const Filter2dParams& p) {
  constexpr int64_t limit = int64_t(1) << 30;
  const int64_t reach = p.dilation * (p.kh + p.kw), positions = p.rows * p.cols * p.phases();
  auto extent = [&](const int64_t* strides, int64_t rows, int64_t columns) {
    return (rows + reach) * std::abs(strides[0]) + (columns + reach) * std::abs(strides[1]);
  };
  const bool planes = positions < limit / 8 && extent(p.xs + 2, p.height, p.width) < limit &&
                      extent(p.ys + 2, p.rows * p.scale, p.cols * p.scale) < limit;
  const bool steps = p.dilation < 1 << 15 && p.stride < 1 << 15 && p.channel_phases <= 64;
  return planes && steps && p.channels < limit && p.batch * p.channels * (positions / 32 + 1) < limit;
}

// ---- loops of a grid over elements, however many there are ----

constexpr int kGenericThreads = 256;

__device__ __forceinline__ int64_t first_element() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ __forceinline__ int64_t element_step() { return int64_t(gridDim.x) * blockDim.x; }

// Blocks for n items, which loop where there are more.
inline dim3 grid_of(int64_t items) {
  constexpr int64_t most = int64_t(1) << 30;
  return dim3(unsigned(items < most ? items : most));
}
inline int64_t blocks_for(int64_t items, int threads = kGenericThreads) { return (items + threads - 1) / threads; }

}  // namespace dynfilters::cuda
