// Kernels for channels_last: vectors run along the channels of a pixel, x and y are read and
// written in place. A task is a block of rows of one sample.
#pragma once

#include "planar.h"  // Blocks

namespace dynfilters::cpu {

// One tap of one pixel: where its partner pixel starts, its spatial weights (one a group, `step`
// apart) and its channel weights.
template <class T, class A>
struct Tap {
  const T* pixel;
  const A* spatial;
  const A* channel;
};

template <class T, class A>
struct Pixels {
  const Problem& p;
  const int64_t cells, K, pad_h, pad_w;
  explicit Pixels(const Problem& problem)
      : p(problem), cells(problem.scale * problem.scale), K(problem.taps()),
        pad_h(problem.dilation * (problem.kh / 2)), pad_w(problem.dilation * (problem.kw / 2)) {}

  // out: [cell][k][channel]
  void pack_channel(const T* channel, A* out) const {
    for (int64_t cell = 0; cell < cells; ++cell)
      for (int64_t k = 0; k < K; ++k)
        for (int64_t c = 0; c < p.channels; ++c)
          out[(cell * K + k) * p.channels + c] =
              widen(channel[c * p.cs[1] + k * p.cs[2] + (p.phases > 1 ? cell : 0) * p.cs[3]]);
  }
  // The spatial taps of output row `row`; out: [column of y][k][group].
  void pack_row(const T* spatial, int64_t row, A* out) const {
    for (int64_t k = 0; k < K; ++k)
      for (int64_t g = 0; g < p.groups; ++g) {
        const T* source = spatial + g * p.ss[1] + k * p.ss[2] + row * p.ss[3];
        for (int64_t j = 0; j < p.cols * p.scale; ++j) out[(j * K + k) * p.groups + g] = widen(source[j * p.ss[4]]);
      }
  }
};

// out[c] = Σ over n taps of tap(s, channel[c])·pixel[c], for all channels. N: n, or 0 for any.
template <class T, class A, class Op, int N>
void weigh_pixel(const Problem& p, const Tap<T, A>* taps, int64_t count, T* out) {
  const int64_t n = N ? N : count, lanes = kLanes<A>, width = p.group_channels();
  for (int64_t g = 0; g < p.groups; ++g) {
    const int64_t begin = g * width, end = begin + width;
    int64_t c = begin;
    for (; c + lanes <= end; c += lanes) {
      Vector<A> total{};
#pragma GCC unroll 9
      for (int64_t t = 0; t < n; ++t) {
        Vector<A> s{}, w{};
        if constexpr (Op::kSpatial) s = splat(taps[t].spatial[g]);
        if constexpr (Op::kChannel) w = load(taps[t].channel + c);
        total += Op::tap(s, w) * load_wide(taps[t].pixel + c);
      }
      store_narrow(out + c, total);
    }
    for (; c < end; ++c) {
      A total = 0;
      for (int64_t t = 0; t < n; ++t)
        total += Op::tap(Op::kSpatial ? taps[t].spatial[g] : A(0), Op::kChannel ? taps[t].channel[c] : A(0)) *
                 widen(taps[t].pixel[c]);
      narrow(total, out + c);
    }
  }
}

// The kernel for pixels with all their taps inside the image.
template <class T, class Op>
auto weigh_for(const Problem& p) {
  using A = Accumulator<T>;
  auto weigh = weigh_pixel<T, A, Op, 0>;
  if constexpr (sizeof(T) == 4) {
    if (p.taps() == 9) weigh = weigh_pixel<T, A, Op, 9>;
    if (p.taps() == 25) weigh = weigh_pixel<T, A, Op, 25>;
  }
  return weigh;
}

template <class T, class A>
using Weigh = void (*)(const Problem&, const Tap<T, A>*, int64_t, T*);

template <class T>
void forward_pixels(const Problem& p, Weigh<T, Accumulator<T>> weigh_all, Weigh<T, Accumulator<T>> weigh_some,
                    const Operands& o, Blocks blocks, int64_t begin, int64_t end) {
  using A = Accumulator<T>;
  auto x = static_cast<const T*>(o.x), spatial = static_cast<const T*>(o.spatial), channel = static_cast<const T*>(o.channel);
  auto y = static_cast<T*>(o.y);
  Pixels<T, A> plan(p);
  const int64_t K = plan.K, C = p.channels, across = p.cols * p.scale;
  std::vector<A> s(p.has_spatial() ? across * K * p.groups : 0), c(p.has_channel() ? plan.cells * K * C : 0);
  std::vector<Tap<T, A>> taps(K);
  int64_t packed = -1;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t b = task / blocks.count, first = task % blocks.count * blocks.rows * p.scale;
    const int64_t last = std::min(first + blocks.rows * p.scale, p.rows * p.scale);
    if (p.has_channel() && packed != b) plan.pack_channel(channel + b * p.cs[0], c.data()), packed = b;
    for (int64_t row = first; row < last; ++row) {
      if (p.has_spatial()) plan.pack_row(spatial + b * p.ss[0], row, s.data());
      const int64_t top = row / p.scale * p.stride - plan.pad_h;
      for (int64_t column = 0; column < across; ++column) {
        const int64_t left = column / p.scale * p.stride - plan.pad_w;
        const int64_t cell = row % p.scale * p.scale + column % p.scale;
        int64_t n = 0;
        for (int64_t ky = 0; ky < p.kh; ++ky) {
          const int64_t h = top + ky * p.dilation;
          if (h < 0 || h >= p.height) continue;
          for (int64_t kx = 0; kx < p.kw; ++kx) {
            const int64_t w = left + kx * p.dilation, k = ky * p.kw + kx;
            if (w < 0 || w >= p.width) continue;
            taps[n++] = {x + b * p.xs[0] + h * p.xs[2] + w * p.xs[3], s.data() + (column * K + k) * p.groups,
                         c.data() + (cell * K + k) * C};
          }
        }
        (n == K ? weigh_all : weigh_some)(p, taps.data(), n, y + b * p.ys[0] + row * p.ys[2] + column * p.ys[3]);
      }
    }
  }
}

// Gradient of x: the same weighing, of the outputs that read a pixel.
template <class T>
void grad_x_pixels(const Problem& p, Weigh<T, Accumulator<T>> weigh_all, Weigh<T, Accumulator<T>> weigh_some,
                   const Operands& o, Blocks blocks, int64_t begin, int64_t end) {
  using A = Accumulator<T>;
  auto grad = static_cast<const T*>(o.grad), spatial = static_cast<const T*>(o.spatial), channel = static_cast<const T*>(o.channel);
  auto gx = static_cast<T*>(o.grad_x);
  Pixels<T, A> plan(p);
  const int64_t K = plan.K, C = p.channels, across = p.cols * p.scale, row_size = across * K * p.groups;
  // Output rows that one input row can depend on lie within this many neighbours.
  const int64_t ring = ((p.kh - 1) * p.dilation / p.stride + 2) * p.scale;
  std::vector<A> s(p.has_spatial() ? ring * row_size : 0), c(p.has_channel() ? plan.cells * K * C : 0);
  std::vector<int64_t> held(ring);
  std::vector<Tap<T, A>> taps(K * plan.cells);
  int64_t packed = -1;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t b = task / blocks.count, first = task % blocks.count * blocks.rows;
    const int64_t last = std::min(first + blocks.rows, p.height);
    if (p.has_channel() && packed != b) plan.pack_channel(channel + b * p.cs[0], c.data()), packed = b;
    std::fill(held.begin(), held.end(), -1);
    for (int64_t h = first; h < last; ++h) {
      for (int64_t ky = 0; p.has_spatial() && ky < p.kh; ++ky) {
        const int64_t centre = h + plan.pad_h - ky * p.dilation;
        if (centre < 0 || centre % p.stride || centre / p.stride >= p.rows) continue;
        for (int64_t u = 0; u < p.scale; ++u) {
          const int64_t row = centre / p.stride * p.scale + u, slot = row % ring;
          if (held[slot] != row) plan.pack_row(spatial + b * p.ss[0], row, s.data() + slot * row_size), held[slot] = row;
        }
      }
      for (int64_t w = 0; w < p.width; ++w) {
        int64_t n = 0;
        for (int64_t ky = 0; ky < p.kh; ++ky) {
          const int64_t centre = h + plan.pad_h - ky * p.dilation;
          if (centre < 0 || centre % p.stride || centre / p.stride >= p.rows) continue;
          for (int64_t kx = 0; kx < p.kw; ++kx) {
            const int64_t middle = w + plan.pad_w - kx * p.dilation, k = ky * p.kw + kx;
            if (middle < 0 || middle % p.stride || middle / p.stride >= p.cols) continue;
            for (int64_t cell = 0; cell < plan.cells; ++cell) {
              const int64_t u = cell / p.scale, v = cell % p.scale;
              const int64_t row = centre / p.stride * p.scale + u, column = middle / p.stride * p.scale + v;
              taps[n++] = {grad + b * p.ys[0] + row * p.ys[2] + column * p.ys[3],
                           s.data() + row % ring * row_size + (column * K + k) * p.groups,
                           c.data() + (cell * K + k) * C};
            }
          }
        }
        (n == K ? weigh_all : weigh_some)(p, taps.data(), n, gx + b * p.xs[0] + h * p.xs[2] + w * p.xs[3]);
      }
    }
  }
}

// Gradients of spatial and channel; `partial` as in grad_taps_planar.
template <class T, class Op>
void grad_taps_pixels(const Problem& p, const Operands& o, Blocks blocks, int64_t begin, int64_t end) {
  using A = Accumulator<T>;
  auto x = static_cast<const T*>(o.x), grad = static_cast<const T*>(o.grad);
  auto spatial = static_cast<const T*>(o.spatial), channel = static_cast<const T*>(o.channel);
  auto gs = static_cast<T*>(o.grad_spatial);
  auto partial = static_cast<A*>(o.partial);
  Pixels<T, A> plan(p);
  const int64_t K = plan.K, C = p.channels, across = p.cols * p.scale, lanes = kLanes<A>, width = p.group_channels();
  std::vector<A> s(Op::kSpatial ? across * K * p.groups : 0), c(Op::kChannel ? plan.cells * K * C : 0);
  std::vector<A> c_sum(partial ? p.phases * K * C : 0);
  const std::vector<A> zeros(lanes);
  int64_t packed = -1;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t b = task / blocks.count, first = task % blocks.count * blocks.rows * p.scale;
    const int64_t last = std::min(first + blocks.rows * p.scale, p.rows * p.scale);
    if (Op::kChannel && packed != b) plan.pack_channel(channel + b * p.cs[0], c.data()), packed = b;
    std::fill(c_sum.begin(), c_sum.end(), A(0));
    for (int64_t row = first; row < last; ++row) {
      if (Op::kSpatial) plan.pack_row(spatial + b * p.ss[0], row, s.data());
      const int64_t top = row / p.scale * p.stride - plan.pad_h;
      for (int64_t column = 0; column < across; ++column) {
        const int64_t left = column / p.scale * p.stride - plan.pad_w;
        const int64_t cell = row % p.scale * p.scale + column % p.scale;
        const T* g_pixel = grad + b * p.ys[0] + row * p.ys[2] + column * p.ys[3];
        for (int64_t k = 0; k < K; ++k) {
          const int64_t h = top + k / p.kw * p.dilation, w = left + k % p.kw * p.dilation;
          const bool inside = h >= 0 && h < p.height && w >= 0 && w < p.width;
          const T* pixel = x + b * p.xs[0] + h * p.xs[2] + w * p.xs[3];
          const A* weights = Op::kChannel ? c.data() + (cell * K + k) * C : zeros.data();
          A* sums = partial ? c_sum.data() + ((p.phases > 1 ? cell : 0) * K + k) * C : nullptr;
          for (int64_t g = 0; g < p.groups; ++g) {
            A total = 0;
            if (inside) {
              const A tap = Op::kSpatial ? s[(column * K + k) * p.groups + g] : A(0);
              Vector<A> totals{};
              int64_t i = g * width;
              for (; i + lanes <= (g + 1) * width; i += lanes) {
                Vector<A> product = load_wide(g_pixel + i) * load_wide(pixel + i);
                if (Op::kSpatial && gs) totals += Op::d_spatial(product, Op::kChannel ? load(weights + i) : Vector<A>{});
                if (Op::kChannel && sums) store(sums + i, load(sums + i) + Op::d_channel(product, splat(tap)));
              }
              total = sum<A>(totals);
              for (; i < (g + 1) * width; ++i) {
                A product = widen(g_pixel[i]) * widen(pixel[i]);
                if (Op::kSpatial && gs) total += Op::d_spatial(product, Op::kChannel ? weights[i] : A(0));
                if (Op::kChannel && sums) sums[i] += Op::d_channel(product, tap);
              }
            }
            if (Op::kSpatial && gs)
              narrow(total, gs + (((b * p.groups + g) * K + k) * p.rows * p.scale + row) * across + column);
          }
        }
      }
    }
    if (partial)
      for (int64_t phase = 0; phase < p.phases; ++phase)
        for (int64_t k = 0; k < K; ++k)
          for (int64_t ch = 0; ch < C; ++ch)
            partial[((task * C + ch) * p.phases + phase) * K + k] = c_sum[(phase * K + k) * C + ch];
  }
}

}  // namespace dynfilters::cpu
