// How the work on a sample is cut. It depends on the problem alone, never on the number of
// threads, so that every sum has one order.
#pragma once
#include <algorithm>

#include "../filter2d.h"

namespace dynfilters::cpu {

struct Tile {
  int64_t row, col, rows, cols;  // of windows
};

struct Tiles {
  int64_t rows, cols;    // of a whole tile
  int64_t down, across;  // how many
  int64_t count() const { return down * across; }
  Tile at(const Problem& p, int64_t i) const {
    const int64_t row = i / across * rows, col = i % across * cols;
    return {row, col, std::min(rows, p.rows - row), std::min(cols, p.cols - col)};
  }
};

// Each way through the memory of x and y has passes of its own.
enum class Way {
  kPlanar,  // any strides: packed, tile by tile (plan.h)
  kFlat,    // dense planes, read in place (flat.h)
  kPixels,  // vectors of channels, packed or where they are (pixel_rows.h)
};

struct Route {
  Way way;
  Tiles tiles;
};

Route planar_route(const Problem& p, int64_t element_bytes);
// How the tensors of a pass lie in memory.
struct Layout {
  bool forward;
  bool dense;   // x, y and their gradients are contiguous
  bool pixels;  // those that are read have their channels side by side, and x as nothing else
};
// The fastest way that serves the problem.
Route route_of(const Problem& p, int64_t element_bytes, const Layout& layout);
// How many tasks a sample is cut into where each needs a sum of its own for grad channel.
int64_t chunks_of(const Problem& p, const Tiles& tiles);

}  // namespace dynfilters::cpu
