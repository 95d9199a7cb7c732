#include <algorithm>

#include "kernels.h"

namespace dynfilters::cpu {

namespace {
constexpr int64_t kTapBytes = 96 * 1024;     // packed spatial taps of a block stay in L2
constexpr int64_t kPixelBytes = 256 * 1024;  // as does a block of channels_last rows
}  // namespace

// Depends on the problem alone, so that sums have the same order on any number of threads.
Blocks blocks_of(const Problem& p, bool pixels, int64_t rows, int64_t element_bytes) {
  const int64_t cells = p.scale * p.scale;
  const int64_t per_row = pixels ? p.cols * p.channels * element_bytes * cells : p.taps() * p.cols * cells * 8;
  int64_t most = (pixels ? kPixelBytes : kTapBytes) / std::max<int64_t>(per_row, 1);
  most = std::clamp<int64_t>(most, 1, std::max<int64_t>(rows, 1));
  const int64_t count = (rows + most - 1) / most;
  return {(rows + count - 1) / count, count};
}

}  // namespace dynfilters::cpu
