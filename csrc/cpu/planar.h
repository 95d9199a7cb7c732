// A tile of one sample as the planar passes take it: any tensor strides, stride, dilation and scale are packed so that
// every tap becomes one offset into flat memory.
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

#include "activate.h"
#include "kernels.h"
#include "rows.h"

namespace dynfilters::cpu {

// Part of an axis: `count` elements from `source` on go to `target` and following.
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

  // The windows that read the pixels whose residue modulo the stride is (a, b), as offsets into g; taps in descending
  // order, which makes the offsets ascend.
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
  // The pixels of the tile whose residue modulo the stride is `residue`, along an axis.
  Span pixel_span(int axis, int64_t residue) const {
    const int64_t size = axis ? p.width : p.height, first = axis ? tile.col : tile.row,
                  count = axis ? tile.cols : tile.rows;
    const int64_t source = first * p.stride + residue;
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

// The operands of a tile, packed to the accumulation type in that layout.
template <class A>
class Packer {
 public:
  const Filter2dParams& p;
  const Operands& o;
  const Access<A> io;
  TileLayout layout;
  std::vector<A> x, g, channel;
  static constexpr int64_t lanes = kLanes<A>;

  Packer(const Filter2dParams& params, const Operands& operands, Access<A> access)
      : p(params), o(operands), io(access), layout(params) {}

  // Filler and pixels outside the image stay zero for all channels of a tile.
  void begin_x() { x.assign(layout.x_total(), A(0)); }
  void begin_g() { g.assign(p.phases() * layout.g_size, A(0)); }

  void pack_x(int64_t b, int64_t ch) {
    const void* base = at(o.x, (b * p.xs[0] + ch * p.xs[1]) * io.bytes);
    A* plane = x.data();
    for (int64_t ry : layout.residues_of(0))
      for (int64_t rx : layout.residues_of(1)) {
        const Span y = layout.x_span(0, ry), z = layout.x_span(1, rx);
        if (y.count && z.count)
          io.read(at(base, (y.source * p.xs[2] + z.source * p.xs[3]) * io.bytes), y.count, p.stride * p.xs[2], z.count,
                  p.stride * p.xs[3], plane + y.target * layout.L + z.target, layout.L);
        plane += layout.x_size;
      }
  }
  // The gradient of y at one phase, with the tile's border.
  void pack_g(int64_t b, int64_t ch, int64_t phase) {
    const Span y = layout.g_span(0), z = layout.g_span(1);
    io.read(at(o.grad, (b * p.ys[0] + ch * p.ys[1] + y_offset(y.source, z.source, phase)) * io.bytes), y.count,
            p.scale * p.ys[2], z.count, p.scale * p.ys[3],
            g.data() + phase * layout.g_size + y.target * layout.L + z.target, layout.L);
  }
  // A tile of y at one phase.
  void write_y(const A* values, int64_t b, int64_t ch, int64_t phase) const {
    const Tile& t = layout.tile;
    io.write(values, layout.L, t.rows, t.cols,
             at(o.y, (b * p.ys[0] + ch * p.ys[1] + y_offset(t.row, t.col, phase)) * io.bytes), p.scale * p.ys[2],
             p.scale * p.ys[3]);
  }
  // The pixels of the tile whose residue modulo the stride is (v, w).
  void write_grad_x(const A* values, int64_t b, int64_t ch, int64_t v, int64_t w) const {
    const Span y = layout.pixel_span(0, v), z = layout.pixel_span(1, w);
    if (y.count && z.count)
      io.write(values, layout.L, y.count, z.count,
               at(o.grad_x, (b * p.gs[0] + ch * p.gs[1] + y.source * p.gs[2] + z.source * p.gs[3]) * io.bytes),
               p.stride * p.gs[2], p.stride * p.gs[3]);
  }
  // All channel taps of a sample: (channels, cells, taps).
  void pack_channel(int64_t b) {
    if (!p.has_channel()) return;
    channel.resize(p.channels * p.phases() * p.taps());
    for (int64_t phase = 0; phase < p.phases(); ++phase)
      for (int64_t ch = 0; ch < p.channels; ++ch)
        read_block<A>(static_cast<const A*>(o.channel) + b * p.cs[0] + ch * p.cs[1] +
                          (p.channel_phases > 1 ? phase : 0) * p.cs[3],
                      1, 0, p.taps(), p.cs[2], channel.data() + (ch * p.phases() + phase) * p.taps(), 0);
  }
  const A* channel_taps(int64_t ch, int64_t phase) const {
    return p.has_channel() ? channel.data() + (ch * p.phases() + phase) * p.taps() : nullptr;
  }

  // The raw spatial taps of a group at one phase: (taps, size) with the border of g, or without.
  void pack_planes(int64_t b, int64_t group, int64_t phase, bool bordered, std::vector<A>& planes) const {
    const Tile& t = layout.tile;
    const Span y = bordered ? layout.g_span(0) : Span{t.row, 0, t.rows};
    const Span z = bordered ? layout.g_span(1) : Span{t.col, 0, t.cols};
    const int64_t size = bordered ? layout.g_size : layout.N;
    for (int64_t k = 0; k < p.taps(); ++k)
      io.read(
          at(o.spatial, (b * p.ss[0] + group * p.ss[1] + k * p.ss[2] + s_offset(y.source, z.source, phase)) * io.bytes),
          y.count, p.scale * p.ss[3], z.count, p.scale * p.ss[4],
          planes.data() + k * size + y.target * layout.L + z.target, layout.L);
  }
  // Copies planes to (N / lanes, n, lanes), plane taps[t].tap read from taps[t].offset on.
  void interleave(const A* planes, int64_t size, const TapOffset* taps, int64_t n, A* out) const {
    for (int64_t t = 0; t < n; ++t) {
      const A* plane = planes + taps[t].tap * size + taps[t].offset;
      for (int64_t m = 0; m < layout.N; m += lanes) store(out + m * n + t * lanes, load(plane + m));
    }
  }

 private:
  int64_t y_offset(int64_t i, int64_t j, int64_t phase) const {
    return (i * p.scale + phase / p.scale) * p.ys[2] + (j * p.scale + phase % p.scale) * p.ys[3];
  }
  int64_t s_offset(int64_t i, int64_t j, int64_t phase) const {
    return (i * p.scale + phase / p.scale) * p.ss[3] + (j * p.scale + phase % p.scale) * p.ss[4];
  }
};

}  // namespace dynfilters::cpu
