// Kernels for channels_last: vectors run along the channels of a pixel, which x and y hold side
// by side; both are read and written in place (row by row, in pixel_rows.h).
//
// Every output pixel is a weighted sum of `n` source pixels: of x for y, of the gradient of y for
// that of x. Where one lies outside the image, a page of zeros stands in for it, so that n and
// the order of the sum are the same everywhere.
#pragma once
#include "../combine.h"
#include "../filter2d.h"
#include "simd.h"

namespace dynfilters::cpu {

// out[c] = Σ over n sources of tap(s_t[group of c], channel[c, t]) · pixel_t[c].
template <class T, class A>
using Weigh = void (*)(const Problem& p, int64_t n, const T* const* pixel, const A* const* s, int64_t s_step,
                       const A* channel, T* out);

template <class T, class A, class Op, int NB>
inline void weigh_some(int64_t n, const T* const* pixel, const A* const* s, int64_t at, const A* channel, int64_t c,
                       T* out) {
  constexpr int64_t lanes = kLanes<A>;
  Vector<A> total[NB]{};
  for (int64_t t = 0; t < n; ++t) {
    const Vector<A> own = splat(Op::kSpatial ? s[t][at] : A(0));
    const T* from = pixel[t] + c;
#pragma GCC unroll 4
    for (int i = 0; i < NB; ++i) {
      Vector<A> weight{};
      if constexpr (Op::kChannel) weight = load(channel + (i * n + t) * lanes);
      total[i] += Op::tap(own, weight) * load_wide(from + i * lanes);
    }
  }
  for (int i = 0; i < NB; ++i) store_narrow(out + c + i * lanes, total[i]);
}

// The same for all vectors of a group from c to end, with the spatial taps and addresses of nine
// sources in registers.
template <class T, class A, class Op>
inline void weigh_nine(const T* const* pixel, const A* const* s, int64_t at, const A* channel, int64_t c, int64_t end,
                       T* out) {
  constexpr int64_t lanes = kLanes<A>;
  Vector<A> own[9];
  const T* from[9];
  for (int t = 0; t < 9; ++t) own[t] = splat(Op::kSpatial ? s[t][at] : A(0)), from[t] = pixel[t];
  for (; c < end; c += lanes, channel += 9 * lanes) {
    Vector<A> total{};
#pragma GCC unroll 9
    for (int t = 0; t < 9; ++t) {
      Vector<A> weight{};
      if constexpr (Op::kChannel) weight = load(channel + t * lanes);
      total += Op::tap(own[t], weight) * load_wide(from[t] + c);
    }
    store_narrow(out + c, total);
  }
}

template <class T, class A, class Op>
void weigh(const Problem& p, int64_t n, const T* const* pixel, const A* const* s, int64_t s_step, const A* channel,
           T* out) {
  constexpr int64_t lanes = kLanes<A>;
  const int64_t width = p.group_channels(), rest = width % lanes, step = Op::kChannel ? n * lanes : 0;
  for (int64_t g = 0, c = 0; g < p.groups; ++g) {
    const int64_t end = c + width - rest, at = g * s_step;
    if (sizeof(T) == 4 && n == 9) {
      weigh_nine<T, A, Op>(pixel, s, at, channel, c, end, out);
      channel += (end - c) / lanes * step, c = end;
    }
    for (; c + 4 * lanes <= end; c += 4 * lanes, channel += 4 * step)
      weigh_some<T, A, Op, 4>(n, pixel, s, at, channel, c, out);
    for (; c + 2 * lanes <= end; c += 2 * lanes, channel += 2 * step)
      weigh_some<T, A, Op, 2>(n, pixel, s, at, channel, c, out);
    for (; c < end; c += lanes, channel += step) weigh_some<T, A, Op, 1>(n, pixel, s, at, channel, c, out);
    for (int64_t i = 0; i < rest; ++i, ++c) {
      A total = 0;
      for (int64_t t = 0; t < n; ++t)
        total +=
            Op::tap(Op::kSpatial ? s[t][at] : A(0), Op::kChannel ? channel[t * lanes + i] : A(0)) * widen(pixel[t][c]);
      narrow(total, out + c);
    }
    if (rest) channel += step;
  }
}

// For two windows at once, p = g[c] · pixel_t[c]: s_sums[t, group] = Σ_c d_spatial(p, channel[c, t])
// over the group's channels, c_sums[c, t] += d_channel(p, s_t[group of c]).
template <class T, class A>
struct PixelSums {
  const T* g[2];
  const T* const* pixel[2];
  const A* const* s[2];
  A* s_sums[2];                 // (taps, groups), s_sums_step from one to the next
  int64_t s_step, s_sums_step;  // s_step: of s, from a group to the next
  const A* channel;
  A* c_sums;  // packed as channel
};

template <class T, class A>
using SumPixels = void (*)(const Problem& p, const PixelSums<T, A>& sums);

template <class T, class A, class Op, int NT>
void sum_some_pixels(const Problem& p, int64_t group, int64_t done, const PixelSums<T, A>& o) {
  constexpr int64_t lanes = kLanes<A>;
  const int64_t n = p.taps(), width = p.group_channels(), end = (group + 1) * width, whole = end - width % lanes;
  Vector<A> own[NT][2], total[NT][2]{};
  const T *pixel[NT][2], *grad[2] = {o.g[0], o.g[1]};
  for (int t = 0; t < NT; ++t)
    for (int w = 0; w < 2; ++w) {
      own[t][w] = splat(Op::kSpatial ? o.s[w][done + t][group * o.s_step] : A(0));
      pixel[t][w] = o.pixel[w][done + t];
    }
  const int64_t at = Op::kChannel ? (group * round_up(width, lanes) * n + done * lanes) : 0;
  const A* channel = o.channel + at;
  A* c_sums = o.c_sums + at;
  int64_t c = group * width;
  for (; c < whole; c += lanes, channel += n * lanes, c_sums += n * lanes) {
    const Vector<A> g[2] = {load_wide(grad[0] + c), load_wide(grad[1] + c)};
#pragma GCC unroll 3
    for (int t = 0; t < NT; ++t) {
      const Vector<A> product[2] = {g[0] * load_wide(pixel[t][0] + c), g[1] * load_wide(pixel[t][1] + c)};
      if constexpr (Op::kSpatial) {
        Vector<A> weight{};
        if constexpr (Op::kChannel) weight = load(channel + t * lanes);
        total[t][0] += Op::d_spatial(product[0], weight), total[t][1] += Op::d_spatial(product[1], weight);
      }
      if constexpr (Op::kChannel)
        store(c_sums + t * lanes,
              load(c_sums + t * lanes) + Op::d_channel(product[0], own[t][0]) + Op::d_channel(product[1], own[t][1]));
    }
  }
  for (int t = 0; t < NT; ++t)
    for (int w = 0; w < 2; ++w) {
      A spatial = sum<A>(total[t][w]);
      for (int64_t i = 0; i < end - whole; ++i) {
        const A product = widen(grad[w][whole + i]) * widen(pixel[t][w][whole + i]);
        if constexpr (Op::kSpatial) spatial += Op::d_spatial(product, Op::kChannel ? channel[t * lanes + i] : A(0));
        if constexpr (Op::kChannel) c_sums[t * lanes + i] += Op::d_channel(product, own[t][w][0]);
      }
      if constexpr (Op::kSpatial) o.s_sums[w][((done + t) * p.groups + group) * o.s_sums_step] = spatial;
    }
}

template <class T, class A, class Op>
void sum_pixels(const Problem& p, const PixelSums<T, A>& o) {
  for (int64_t g = 0; g < p.groups; ++g) {
    int64_t done = 0;
    for (; done + 3 <= p.taps(); done += 3) sum_some_pixels<T, A, Op, 3>(p, g, done, o);
    for (; done < p.taps(); ++done) sum_some_pixels<T, A, Op, 1>(p, g, done, o);
  }
}

}  // namespace dynfilters::cpu
