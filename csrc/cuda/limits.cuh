// Which calls the fast kernels can take.
#pragma once
#include <cstdlib>

#include "work.cuh"

namespace dynfilters::cuda {

// One that dispatch.h has a template for.
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

}  // namespace dynfilters::cuda
