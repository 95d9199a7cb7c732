// How the work on a sample is cut. It depends on the problem alone, never on the number of
// threads, so that every sum has one order.
#pragma once
#include <algorithm>

#include "../filter2d.h"

namespace dynfilters::cpu {

// K, if windows are K rows and columns of 3, 5 or 7, one apart, else 0.
inline int64_t window_of(const Filter2dParams& p) {
  const bool window = p.kh == p.kw && (p.kh == 3 || p.kh == 5 || p.kh == 7) && p.stride == 1 && p.dilation == 1;
  return window ? p.kh : 0;
}

struct Tile {
  int64_t row, col, rows, cols;  // of windows
};

struct Tiles {
  int64_t rows, cols;    // of a whole tile
  int64_t down, across;  // how many
  int64_t count() const { return down * across; }
  Tile at(const Filter2dParams& p, int64_t i) const {
    const int64_t row = i / across * rows, col = i % across * cols;
    return {row, col, std::min(rows, p.rows - row), std::min(cols, p.cols - col)};
  }
};

// Each way through the memory of x and y has passes of its own.
enum class Algorithm {
  kPlanar,      // any strides: packed, tile by tile (plan.h)
  kFlat,        // dense planes, read in place (flat.h)
  kPixels,      // vectors of channels, packed or where they are (pixel_rows.h)
  kTransposed,  // the same, of small dense planes that are turned over first (transposed.h)
};

inline bool is_by_pixels(Algorithm algorithm) {
  return algorithm == Algorithm::kPixels || algorithm == Algorithm::kTransposed;
}

struct Plan {
  Algorithm algorithm;
  Tiles tiles;
};

Plan planar_plan(const Filter2dParams& p, int64_t element_bytes);
// How the tensors of a pass lie in memory.
struct MemoryFormat {
  bool forward;
  bool dense;   // x, y and their gradients are contiguous
  bool pixels;  // those that are read have their channels side by side, and x as nothing else
};
// The fastest way that serves the problem.
Plan plan_for(const Filter2dParams& p, int64_t element_bytes, const MemoryFormat& layout);
// How many tasks a sample is cut into where each needs a sum of its own for grad channel.
int64_t chunks_of(const Filter2dParams& p, const Tiles& tiles);

}  // namespace dynfilters::cpu
