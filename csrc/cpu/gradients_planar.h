// Gradients of a block of rows, plane by plane. Each is a gather: every element is summed in a
// fixed order by one task and written once.
#pragma once
#include "planar.h"

namespace dynfilters::cpu {

// ---- x ---------------------------------------------------------------------------------------
// Input row r and column q receive, through tap (ky, kx), from the window centred where
// stride·i = r + pad − dilation·ky, and likewise across. Columns are sorted by residue as x is.

template <class A>
struct Source {
  const A *taps, *grad, *channel;
};

template <class A>
struct Reverse {
  const Planar<A>& plan;
  const Problem& p;
  int64_t border, width;  // zero columns on either side of a packed row of windows; its length
  int64_t most;           // window rows that any block needs
  int64_t i0 = 0, count = 0;  // the window rows that read the block's rows of x

  Reverse(const Planar<A>& planar, int64_t rows) : plan(planar), p(planar.p) {
    border = round_up(((p.kw - 1) * p.dilation) / p.stride + 1, plan.lanes);
    width = plan.residue + plan.run + 2 * border + plan.lanes;
    most = (rows + (p.kh - 1) * p.dilation) / p.stride + 2;
  }
  void begin(int64_t first, int64_t rows) {
    const int64_t top = first + plan.pad_h - (p.kh - 1) * p.dilation;
    i0 = std::max<int64_t>(top, 0) / p.stride;
    count = std::min((first + rows - 1 + plan.pad_h) / p.stride, p.rows - 1) - i0 + 1;
  }
  int64_t place(int64_t i, int64_t cell) const { return ((i - i0) * plan.cells() + cell) * width + border; }
  int64_t grad_size() const { return most * plan.cells() * width; }
  int64_t taps_size() const { return p.has_spatial() ? p.taps() * grad_size() : 0; }

  template <class T>
  void pack_row(const T* source, int64_t step, A* target) const {
    for (int64_t j = 0; j < p.cols; ++j) target[j] = widen(source[j * step]);
  }
  template <class T>
  void pack_taps(const T* spatial, int64_t b, int64_t channel, A* out) const {
    if (!p.has_spatial()) return;
    spatial += b * p.ss[0] + channel / p.group_channels() * p.ss[1];
    std::fill(out, out + taps_size(), A(0));
    for (int64_t k = 0; k < p.taps(); ++k)
      for (int64_t i = i0; i < i0 + count; ++i)
        for (int64_t cell = 0; cell < plan.cells(); ++cell)
          pack_row(spatial + k * p.ss[2] + (i * p.scale + cell / p.scale) * p.ss[3] + cell % p.scale * p.ss[4],
                   p.scale * p.ss[4], out + k * grad_size() + place(i, cell));
  }
  template <class T>
  void pack_grad(const T* grad, A* out) const {
    std::fill(out, out + grad_size(), A(0));
    for (int64_t i = i0; i < i0 + count; ++i)
      for (int64_t cell = 0; cell < plan.cells(); ++cell)
        pack_row(grad + (i * p.scale + cell / p.scale) * p.ys[2] + cell % p.scale * p.ys[3], p.scale * p.ys[3],
                 out + place(i, cell));
  }
  // What row r of x receives, at the columns whose place within the stride is `rest`.
  int64_t sources(int64_t r, int64_t rest, const A* taps, const A* grad, const A* c, Source<A>* out) const;

  template <class T>
  void unpack(const A* values, int64_t rest, T* row) const {
    for (int64_t m = 0; m < plan.residue; ++m) {
      const int64_t q = m * p.stride + rest - plan.pad_w;
      if (q >= 0 && q < p.width) narrow(values[m], row + q * p.xs[3]);
    }
  }
};

template <class A>
int64_t Reverse<A>::sources(int64_t r, int64_t rest, const A* taps, const A* grad, const A* c, Source<A>* out) const {
  int64_t n = 0;
  for (int64_t ky = 0; ky < p.kh; ++ky) {
    const int64_t centre = r + plan.pad_h - ky * p.dilation, i = centre / p.stride;
    if (centre < 0 || centre % p.stride || i >= p.rows) continue;
    for (int64_t kx = 0; kx < p.kw; ++kx) {
      if ((kx * p.dilation) % p.stride != rest) continue;
      const int64_t shift = (kx * p.dilation) / p.stride, k = ky * p.kw + kx;
      for (int64_t cell = 0; cell < plan.cells(); ++cell) {
        const int64_t at = place(i, cell) - shift;
        out[n++] = {p.has_spatial() ? taps + k * grad_size() + at : nullptr, grad + at, c + cell * p.taps() + k};
      }
    }
  }
  return n;
}

template <class A>
using GradXRow = void (*)(const Source<A>*, int64_t, int64_t, A*);

// out[m] = Σ over n sources of their tap times their gradient, at m.
template <class A, class Op>
void grad_x_row(const Source<A>* sources, int64_t n, int64_t length, A* out) {
  for (int64_t m = 0; m < length; m += kLanes<A>) {
    Vector<A> total{};
    for (int64_t t = 0; t < n; ++t) {
      Vector<A> s{}, c{};
      if constexpr (Op::kSpatial) s = load(sources[t].taps + m);
      if constexpr (Op::kChannel) c = splat(*sources[t].channel);
      total += Op::tap(s, c) * load(sources[t].grad + m);
    }
    store(out + m, total);
  }
}

template <class T>
void grad_x_planar(const Problem& p, GradXRow<Accumulator<T>> grad_x_row, const Operands& o, Blocks blocks, int64_t begin,
                   int64_t end) {
  using A = Accumulator<T>;
  Planar<A> plan(p);
  Reverse<A> reverse(plan, blocks.rows);
  std::vector<A> taps(reverse.taps_size()), grad(reverse.grad_size()), c(plan.cells() * p.taps());
  std::vector<A> out(plan.residue + plan.lanes);
  std::vector<Source<A>> sources(p.taps() * plan.cells());
  for (int64_t task = begin; task < end; ++task) {
    const int64_t b = task / blocks.count, first = task % blocks.count * blocks.rows;
    const int64_t rows = std::min(blocks.rows, p.height - first);
    if (rows <= 0) continue;
    reverse.begin(first, rows);
    for (int64_t ch = 0; ch < p.channels; ++ch) {
      if (ch % p.group_channels() == 0) reverse.pack_taps(static_cast<const T*>(o.spatial), b, ch, taps.data());
      plan.pack_channel(static_cast<const T*>(o.channel), b, ch, c.data());
      reverse.pack_grad(static_cast<const T*>(o.grad) + b * p.ys[0] + ch * p.ys[1], grad.data());
      T* target = static_cast<T*>(o.grad_x) + b * p.xs[0] + ch * p.xs[1];
      for (int64_t r = first; r < first + rows; ++r)
        for (int64_t rest = 0; rest < p.stride; ++rest) {
          const int64_t n = reverse.sources(r, rest, taps.data(), grad.data(), c.data(), sources.data());
          grad_x_row(sources.data(), n, plan.residue, out.data());
          reverse.unpack(out.data(), rest, target + r * p.xs[2]);
        }
    }
  }
}

// ---- spatial and channel ---------------------------------------------------------------------
// Both weigh the same products g·x: spatial sums them over the channels of a group, channel over
// the positions of the block (a second stage adds the blocks up, in order).

template <class A, class Op, int KW, bool kUnit>
void grad_taps_row(const Planar<A>& plan, const A* plane, const A* grad, const A* taps, A* taps_sum,
                   int64_t tap_step, const A* c, A* c_sum, bool want_spatial, bool want_channel) {
  const int64_t kh = plan.p.kh, kw = KW ? KW : plan.p.kw, lanes = kLanes<A>;
  const int64_t line = plan.line, down = kUnit ? line : plan.p.dilation * line;
  for (int64_t ky = 0; ky < kh; ++ky)
#pragma GCC unroll 7
    for (int64_t kx = 0; kx < kw; ++kx) {
      const int64_t k = ky * kw + kx;
      const A* x = plane + ky * down + (kUnit ? kx : plan.tap_offset(kx));
      const Vector<A> weight = splat(c[k]);
      Vector<A> total{};
      for (int64_t j = 0; j < plan.run; j += lanes) {
        Vector<A> product = load(grad + j) * load(x + j);
        if (Op::kSpatial && want_spatial)
          store(taps_sum + k * tap_step + j, load(taps_sum + k * tap_step + j) + Op::d_spatial(product, weight));
        if (Op::kChannel && want_channel) {
          Vector<A> s{};
          if constexpr (Op::kSpatial) s = load(taps + k * tap_step + j);
          total += Op::d_channel(product, s);
        }
      }
      if (Op::kChannel && want_channel) store(c_sum + k * lanes, load(c_sum + k * lanes) + total);
    }
}

template <class A>
using GradTapsRow = void (*)(const Planar<A>&, const A*, const A*, const A*, A*, int64_t, const A*, A*, bool, bool);

// o.partial: (blocks of all samples, channels, phases, taps), what each block adds to grad channel.
template <class T>
void grad_taps_planar(const Problem& p, GradTapsRow<Accumulator<T>> grad_taps_row, const Operands& o, Blocks blocks,
                      int64_t begin, int64_t end) {
  using A = Accumulator<T>;
  Planar<A> plan(p);
  const int64_t cells = plan.cells(), K = p.taps(), lanes = plan.lanes, per_channel = p.phases * K;
  const bool want_spatial = o.grad_spatial, want_channel = o.partial;
  std::vector<A> taps(plan.taps_size(blocks.rows)), sums(want_spatial ? taps.size() : 0), g(plan.run);
  std::vector<A> plane(plan.plane_size(blocks.rows)), c(cells * K), c_sum(per_channel * lanes);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t b = task / blocks.count, first = task % blocks.count * blocks.rows;
    const int64_t rows = std::max<int64_t>(std::min(blocks.rows, p.rows - first), 0);
    for (int64_t ch = 0; ch < p.channels; ++ch) {
      if (ch % p.group_channels() == 0) {
        plan.pack_taps(static_cast<const T*>(o.spatial), b, ch, first, rows, taps.data());
        std::fill(sums.begin(), sums.end(), A(0));
      }
      plan.pack_channel(static_cast<const T*>(o.channel), b, ch, c.data());
      plan.pack_plane(static_cast<const T*>(o.x) + b * p.xs[0] + ch * p.xs[1], first, rows, plane.data());
      std::fill(c_sum.begin(), c_sum.end(), A(0));
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t cell = 0; cell < cells; ++cell) {
          plan.pack_output_row(static_cast<const T*>(o.grad) + b * p.ys[0] + ch * p.ys[1], first + i, cell, g.data());
          const int64_t at = plan.taps_index(rows, 0, i, cell);
          grad_taps_row(plan, plane.data() + plan.offset(i, 0, 0), g.data(), taps.data() + at, sums.data() + at,
                        rows * cells * plan.run, c.data() + cell * K, c_sum.data() + (p.phases > 1 ? cell : 0) * K * lanes,
                        want_spatial, want_channel);
        }
      if (want_channel) {
        A* own = static_cast<A*>(o.partial) + (task * p.channels + ch) * per_channel;
        for (int64_t k = 0; k < per_channel; ++k) own[k] = sum<A>(load(c_sum.data() + k * lanes));
      }
      if (want_spatial && (ch + 1) % p.group_channels() == 0)
        plan.unpack_taps(sums.data(), b, ch, first, rows, static_cast<T*>(o.grad_spatial));
    }
  }
}

}  // namespace dynfilters::cpu
