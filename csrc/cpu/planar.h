// What the planar passes share: a tile's operands packed to the accumulation type, in the layout
// of plan.h. Any strides, so any memory format, are read and written in place.
#pragma once
#include "activate.h"
#include "kernels.h"
#include "rows.h"

namespace dynfilters::cpu {

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

  // Filler and what lies outside the image stay zero for all channels of a tile.
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
  // The pixels of the tile at place (v, w) within a stride.
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
  // Planes to (N / lanes, n, lanes), plane taps[t].tap read from taps[t].offset on.
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
