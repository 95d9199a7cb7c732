#include "plan.h"

#include "simd.h"

namespace dynfilters::cpu {

namespace {
// The taps of a tile are read again for every channel: they should stay in the nearest caches, and must not take more
// than kMostBytes, however large the kernel.
constexpr int64_t kTapBytes = 32 * 1024, kFlatBytes = 128 * 1024, kMostBytes = 256 * 1024;
constexpr int64_t kPixelBytes = 40 * 1024, kSlabBytes = 256 * 1024;
// The most of a sample that is transposed: three of them should stay in L2, and narrow vectors read them more often.
// The most of its tensor, which should stay in L3.
constexpr int64_t kTransposedBytes = 2048 * kVectorBytes, kTransposedTensorBytes = 2 * 1024 * 1024;
constexpr int64_t kTasks = 64;               // enough for the threads of most machines
constexpr int64_t kTaskOutputs = 16 * 1024;  // fewer are not worth a task of their own

int64_t pieces(int64_t size, int64_t most) { return (size + most - 1) / most; }

// Into how many tasks a sample is cut, at most.
int64_t tasks_of(const Filter2dParams& p) {
  const int64_t wanted = pieces(kTasks, std::max<int64_t>(p.batch, 1));
  return std::clamp<int64_t>(p.rows * p.cols * p.phases() * p.channels / kTaskOutputs, 1, wanted);
}

Tiles cut(const Filter2dParams& p, int64_t rows, int64_t cols) {
  const int64_t down = pieces(p.rows, std::clamp<int64_t>(rows, 1, p.rows));
  const int64_t across = pieces(p.cols, std::clamp<int64_t>(cols, 1, p.cols));
  return {pieces(p.rows, down), pieces(p.cols, across), down, across};
}
// Tiles for vectors of channels. The rows of one vector stay in L1, or for a large kernel near it; the taps of a tile
// and all that its windows read in L2.
Tiles pixel_tiles(const Filter2dParams& p, bool forward) {
  const int64_t reach = (p.kh - 1) * p.dilation, least = 4 * (reach / p.stride) + 1;
  const int64_t around = (p.kw - 1) * p.dilation + 8;
  // Backward holds rows of all vectors of channels at a time.
  const int64_t room = forward ? p.width * p.stride + around : 2 * kSlabBytes / (p.kh * p.channels * 4);
  const int64_t line = std::min(kPixelBytes / (p.kh * kVectorBytes), room);
  int64_t across = (line - around) / p.stride;
  // Windows that are read in place: what they read, and the next tile's, which is being fetched, stay in L2.
  if (forward && window_of(p) == 3) across = std::min(across, kSlabBytes / (least * p.channels * 4));
  const int64_t cols = pieces(p.cols, pieces(p.cols, std::max<int64_t>(across, 16)));
  const int64_t fits = kSlabBytes / (cols * p.stride * p.stride * p.channels * 4) - reach / p.stride;
  const int64_t shared = pieces(p.rows, tasks_of(p));
  const int64_t most = std::max<int64_t>(kMostBytes / (cols * p.taps() * p.phases() * 4), 1);
  return cut(p, std::min(most, std::max(std::min(shared, fits), std::min(least, shared))), cols);
}
// Vectors along a small plane leave part of the last one empty, and in backward add each product to sums in memory,
// where vectors of channels keep the sums in registers. Measured at 7×7 against kFlat: 0.8 of its time forward, 0.55
// backward. Forward gains nothing on larger planes, where columns are no whole blocks of the kernels, or where the
// tensor does not stay in L3: transposing waits for memory, and nothing is computed meanwhile.
bool pays_to_transpose(const Filter2dParams& p, bool forward) {
  const int64_t pixels = p.rows * p.cols, sample = p.channels * pixels * 4;
  if (sample > kTransposedBytes) return false;
  if (!forward) return pixels <= 81;
  return pixels <= 56 && (p.cols % 7 == 0 || p.cols % 8 == 0) && p.batch * sample <= kTransposedTensorBytes;
}
// Whether the passes for vectors of channels can read transposed planes in place.
bool can_transpose(const Filter2dParams& p, int64_t element_bytes, const MemoryFormat& format) {
  const bool whole_vectors = p.group_channels() * 4 % kVectorBytes == 0;
  return format.dense && element_bytes == 4 && window_of(p) == 3 && p.scale == 1 && whole_vectors;
}
}  // namespace

Plan planar_plan(const Filter2dParams& p, int64_t element_bytes) {
  // Rows that a tile shares with its neighbours are read twice: not too flat a tile.
  const int64_t least = 2 * ((p.kh - 1) * p.dilation / p.stride) + 1;
  const int64_t each = p.taps() * p.phases() * element_bytes, positions = kTapBytes / each;
  const int64_t most = std::max<int64_t>(kMostBytes / each, 1);
  const int64_t cols = pieces(p.cols, pieces(p.cols, std::min(std::max<int64_t>(128, positions / least), most)));
  return {Algorithm::kPlanar,
          cut(p, std::min(std::max(least, positions / cols), std::max<int64_t>(most / cols, 1)), cols)};
}

Plan plan_for(const Filter2dParams& p, int64_t element_bytes, const MemoryFormat& format) {
  // A vector of channels shares one tap of a large kernel, which pays for transposing dense planes row by row; a vector
  // of pixels needs as many taps as pixels.
  const bool transposes = format.forward && format.dense && !p.has_channel() && p.taps() >= 25;
  const int64_t channels = transposes ? p.group_channels() : p.channels;
  if ((transposes || format.pixels) && element_bytes <= 4 && channels * 4 >= kVectorBytes)
    return {Algorithm::kPixels, pixel_tiles(p, format.forward)};
  if (can_transpose(p, element_bytes, format) && pays_to_transpose(p, format.forward))
    return {Algorithm::kTransposed, cut(p, p.rows, p.cols)};
  const bool dense = format.dense;
  if (dense && element_bytes >= 4 && p.stride == 1 && p.scale == 1 && p.combine != Combine::kAdd) {
    const int64_t row = p.taps() * p.width * element_bytes;
    const Tiles tiles = cut(p, kFlatBytes / row, p.width);
    // A tile must hold a vector, and not too many taps.
    if (row <= kMostBytes && tiles.at(p, tiles.count() - 1).rows * p.width * element_bytes >= kVectorBytes)
      return {Algorithm::kFlat, tiles};
  }
  return planar_plan(p, std::max<int64_t>(element_bytes, 4));
}

int64_t chunks_of(const Filter2dParams& p, const Tiles& tiles) { return std::min(tasks_of(p), tiles.count()); }

}  // namespace dynfilters::cpu
