// How a tile of one sample is laid out for the planar kernels, so that every tap of every
// geometry becomes one offset into flat memory.
//
// A tile is `rows` by `cols` windows. All buffers that run along windows share one pitch L: the
// flat position of window (i, j) is m = i·L + j, and there are N = rows·L of them, rounded up to
// whole vectors; positions with j ≥ cols are filler, computed and dropped. x, padded with zeros,
// is split by its rows' and columns' residues modulo stride into sub-planes of that pitch, which
// turns strided reads into contiguous ones. g, the gradient of y, has a border of DY, DX windows
// around the tile, because a pixel is read by windows on all sides.
#pragma once
#include <algorithm>
#include <vector>

#include "simd.h"
#include "tiles.h"

namespace dynfilters::cpu {

// One tap: where its partner lies, relative to the window's (or pixel's) own flat position.
struct TapOffset {
  int64_t tap, offset;
};

// Part of an axis: `count` elements from `source` on, `step` apart, go to `target` and following.
struct Span {
  int64_t source, target, count;
};

class TileLayout {
 public:
  const Filter2dParams& p;
  Tile tile{};
  int64_t L = 0, N = 0;
  int64_t border_y, border_x, after_y, after_x;  // of g: before and behind the tile
  int64_t x_size = 0, g_size = 0;                // of one sub-plane of x; of g at one phase
  std::vector<TapOffset> reads;                  // of a window, in x: taps in ascending order

  explicit TileLayout(const Filter2dParams& params) : p(params) {
    border_y = ((p.kh - 1) * p.dilation - p.pad_h()) / p.stride;
    border_x = ((p.kw - 1) * p.dilation - p.pad_w()) / p.stride;
    after_y = (p.stride - 1 + p.pad_h()) / p.stride;
    after_x = (p.stride - 1 + p.pad_w()) / p.stride;
    used_y = residues(p.kh), used_x = residues(p.kw);
  }

  void begin(const Tile& next, int64_t lanes) {
    tile = next;
    L = tile.cols + std::max(((p.kw - 1) * p.dilation) / p.stride, border_x + after_x);
    N = round_up(tile.rows * L, lanes);
    const int64_t overrun = L + 2 * lanes;
    x_size = (tile.rows + ((p.kh - 1) * p.dilation) / p.stride) * L + overrun;
    g_size = round_up((tile.rows + border_y + after_y) * L + overrun, lanes);
    reads.clear();
    for (int64_t ky = 0; ky < p.kh; ++ky)
      for (int64_t kx = 0; kx < p.kw; ++kx) {
        const int64_t y = ky * p.dilation, x = kx * p.dilation;
        const int64_t plane = index(used_y, y % p.stride) * int64_t(used_x.size()) + index(used_x, x % p.stride);
        reads.push_back({ky * p.kw + kx, plane * x_size + y / p.stride * L + x / p.stride});
      }
  }
  // All of x that the tile's windows read.
  int64_t x_total() const { return int64_t(used_y.size() * used_x.size()) * x_size; }
  // The tile's own windows, within g.
  int64_t g_origin() const { return border_y * L + border_x; }

  // The windows that read the pixels whose place within a stride is (a, b), as offsets into g;
  // taps in descending order, which makes the offsets ascend.
  std::vector<TapOffset> readers(int64_t a, int64_t b) const {
    std::vector<TapOffset> found;
    for (int64_t k = p.taps() - 1; k >= 0; --k) {
      const int64_t y = a + p.pad_h() - k / p.kw * p.dilation, x = b + p.pad_w() - k % p.kw * p.dilation;
      if (y % p.stride == 0 && x % p.stride == 0)
        found.push_back({k, (border_y + y / p.stride) * L + border_x + x / p.stride});
    }
    return found;
  }

  // The rows (axis 0) or columns (axis 1) of x that exist, for the sub-plane of one residue.
  Span x_span(int axis, int64_t residue) const {
    const int64_t size = axis ? p.width : p.height, pad = axis ? p.pad_w() : p.pad_h();
    const int64_t first = axis ? tile.col : tile.row, count = axis ? tile.cols : tile.rows;
    const int64_t extra = (((axis ? p.kw : p.kh) - 1) * p.dilation) / p.stride;
    const int64_t from = std::max<int64_t>(0, ceil_div(pad - residue, p.stride) - first);
    const int64_t to = std::min(count + extra, ceil_div(size + pad - residue, p.stride) - first);
    return {(first + from) * p.stride + residue - pad, from, std::max<int64_t>(0, to - from)};
  }
  // The windows around the tile that exist, along an axis.
  Span g_span(int axis) const {
    const int64_t size = axis ? p.cols : p.rows, first = axis ? tile.col : tile.row,
                  count = axis ? tile.cols : tile.rows;
    const int64_t before = axis ? border_x : border_y, after = axis ? after_x : after_y;
    const int64_t from = std::max<int64_t>(0, before - first),
                  to = std::min(count + before + after, size - first + before);
    return {first - before + from, from, std::max<int64_t>(0, to - from)};
  }
  // The pixels of the tile whose place within a stride is `place`, along an axis.
  Span pixel_span(int axis, int64_t place) const {
    const int64_t size = axis ? p.width : p.height, first = axis ? tile.col : tile.row,
                  count = axis ? tile.cols : tile.rows;
    const int64_t source = first * p.stride + place;
    return {source, 0, std::clamp<int64_t>(ceil_div(size - source, p.stride), 0, count)};
  }
  const std::vector<int64_t>& residues_of(int axis) const { return axis ? used_x : used_y; }

 private:
  std::vector<int64_t> used_y, used_x;  // the residues modulo stride that any tap reads

  std::vector<int64_t> residues(int64_t k) const {
    std::vector<int64_t> found;
    for (int64_t i = 0; i < k; ++i)
      if (const int64_t r = i * p.dilation % p.stride; std::find(found.begin(), found.end(), r) == found.end())
        found.push_back(r);
    return found;
  }
  static int64_t index(const std::vector<int64_t>& of, int64_t value) {
    return std::find(of.begin(), of.end(), value) - of.begin();
  }
  static int64_t ceil_div(int64_t a, int64_t b) { return a > 0 ? (a + b - 1) / b : -(-a / b); }
};

}  // namespace dynfilters::cpu
