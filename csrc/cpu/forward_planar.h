// y of a block of rows, plane by plane. Accumulates in the accumulation type, each output in the
// order of its taps; writes each output once.
#pragma once
#include "planar.h"

namespace dynfilters::cpu {

// One row of outputs. KW: taps across, or any number if 0. kUnit: stride and dilation are 1.
template <class A, class Op, int KW, bool kUnit>
void forward_row(const Planar<A>& plan, const A* plane, const A* taps, int64_t tap_step, const A* c, A* out) {
  const int64_t kh = plan.p.kh, kw = KW ? KW : plan.p.kw;
  const int64_t line = plan.line, down = kUnit ? line : plan.p.dilation * line;
  for (int64_t j = 0; j < plan.run; j += kLanes<A>) {
    Vector<A> total{};
    for (int64_t ky = 0; ky < kh; ++ky)
#pragma GCC unroll 7
      for (int64_t kx = 0; kx < kw; ++kx) {
        const int64_t k = ky * kw + kx;
        const int64_t across = kUnit ? kx : plan.tap_offset(kx);
        Vector<A> x = load(plane + ky * down + across + j), s{};
        if constexpr (Op::kSpatial) s = load(taps + k * tap_step + j);
        total += Op::tap(s, splat(c[k])) * x;
      }
    store(out + j, total);
  }
}

template <class A>
using ForwardRow = void (*)(const Planar<A>&, const A*, const A*, int64_t, const A*, A*);

template <class T>
void forward_planar(const Problem& p, ForwardRow<Accumulator<T>> forward_row, const Operands& o, Blocks blocks,
                    int64_t begin, int64_t end) {
  using A = Accumulator<T>;
  Planar<A> plan(p);
  const int64_t cells = plan.cells(), K = p.taps();
  std::vector<A> taps(plan.taps_size(blocks.rows)), plane(plan.plane_size(blocks.rows)), c(cells * K), out(plan.run);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t b = task / blocks.count, first = task % blocks.count * blocks.rows;
    const int64_t rows = std::min(blocks.rows, p.rows - first);
    for (int64_t ch = 0; rows > 0 && ch < p.channels; ++ch) {
      if (ch % p.group_channels() == 0) plan.pack_taps(static_cast<const T*>(o.spatial), b, ch, first, rows, taps.data());
      plan.pack_channel(static_cast<const T*>(o.channel), b, ch, c.data());
      plan.pack_plane(static_cast<const T*>(o.x) + b * p.xs[0] + ch * p.xs[1], first, rows, plane.data());
      T* target = static_cast<T*>(o.y) + b * p.ys[0] + ch * p.ys[1];
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t cell = 0; cell < cells; ++cell) {
          forward_row(plan, plane.data() + plan.offset(i, 0, 0), taps.data() + plan.taps_index(rows, 0, i, cell),
                      rows * cells * plan.run, c.data() + cell * K, out.data());
          plan.unpack_output_row(out.data(), first + i, cell, target);
        }
    }
  }
}

}  // namespace dynfilters::cpu
