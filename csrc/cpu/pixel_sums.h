// The innermost kernels for the gradients of taps, with vectors along the channels as in pixels.h.
#pragma once
#include "../combine.h"
#include "lines.h"

namespace dynfilters::cpu {

// For some outputs j of the channels of a group, with p = g[j] · pixel_t[j]:
// s_sums[t, j] = Σ_c d_spatial(p, channel[c, t]), c_sums[c, t] += Σ_j d_channel(p, s_t[j]).
// Both are made although one alone may be wanted, which is rare.
template <class A>
struct Summing {
  int64_t n, vectors;
  const A* const* pixel;
  const A* const* s;
  int64_t pixel_offset, pixel_step, pixel_vector;  // the last one: from a vector to the next
  int64_t s_offset;
  const A* g;
  int64_t g_step, g_vector;
  const A* channel;  // (vectors, n, lanes)
  A* c_sums;         // likewise
  int64_t count;     // of outputs
  A* s_sums;         // s_sums_step from a source to the next
  int64_t s_sums_step;
  Ahead* ahead;  // a share of it for every 3 sources of a block of 4 outputs, and vector
};
template <class A>
using SumRow = void (*)(const Summing<A>&);

// Sources t and following, NT of them, for the outputs j and following, NP of them. kWindow: each source
// and output is one pixel behind the last one.
template <class A, class Op, int NT, int NP, bool kWindow>
void sum_some(const Summing<A>& o, int64_t t, int64_t j) {
  constexpr int64_t lanes = kLanes<A>;
  const A *pixel[NT], *own[NT], *g = o.g + j * o.g_step, *channel = o.channel + t * lanes;
  A* c_sums = o.c_sums + t * lanes;
  const int64_t step = o.pixel_step, g_step = o.g_step, tap_vector = o.n * lanes;
  for (int i = 0; i < NT; ++i) {
    pixel[i] = o.pixel[t + i] + o.pixel_offset + j * step;
    own[i] = Op::kSpatial ? o.s[t + i] + o.s_offset + j : nullptr;
  }
  Vector<A> total[lanes]{};  // (NT, NP)
  for (int64_t left = o.vectors, pixel_vector = o.pixel_vector, g_vector = o.g_vector; left > 0; --left) {
    o.ahead->fetch();
    Vector<A> grad[NP];
#pragma GCC unroll 4
    for (int p = 0; p < NP; ++p) grad[p] = load(g + p * g_step);
#pragma GCC unroll 3
    for (int i = 0; i < NT; ++i) {
      Vector<A> weight{}, sums{};
      if constexpr (Op::kSpatial && Op::kChannel) weight = load(channel + i * lanes);
      if constexpr (Op::kChannel) sums = load(c_sums + i * lanes);
#pragma GCC unroll 4
      for (int p = 0; p < NP; ++p) {
        const Vector<A> product = grad[p] * load(kWindow ? pixel[0] + (i + p) * lanes : pixel[i] + p * step);
        if constexpr (Op::kSpatial) total[i * NP + p] += Op::d_spatial(product, weight);
        if constexpr (Op::kChannel) sums += Op::d_channel(product, splat(Op::kSpatial ? own[i][p] : A(0)));
      }
      if constexpr (Op::kChannel) store(c_sums + i * lanes, sums);
    }
    for (int i = 0; i < (kWindow ? 1 : NT); ++i) pixel[i] += pixel_vector;
    g += g_vector;
    if constexpr (Op::kChannel) channel += tap_vector, c_sums += tap_vector;
  }
  if constexpr (Op::kSpatial) {
    static_assert(NT * NP <= lanes);
    A found[lanes];
    store(found, sums_of<A>(total));
    for (int i = 0; i < NT; ++i)
      for (int p = 0; p < NP; ++p) o.s_sums[(t + i) * o.s_sums_step + j + p] = found[i * NP + p];
  }
}

template <class A, class Op, int NP, bool kWindow>
void sum_outputs(const Summing<A>& o, int64_t j) {
  int64_t t = 0;
  for (; t + 3 <= o.n; t += 3) sum_some<A, Op, 3, NP, kWindow>(o, t, j);
  for (; t < o.n; ++t) sum_some<A, Op, 1, NP, false>(o, t, j);
}

template <class A, class Op, bool kWindow>
void sums(const Summing<A>& o) {
  constexpr int most = kVectorBytes == 64 ? 4 : 2;  // by the registers there are
  int64_t j = 0;
  for (; j + most <= o.count; j += most) sum_outputs<A, Op, most, kWindow>(o, j);
  for (; j + 2 <= o.count; j += 2) sum_outputs<A, Op, 2, kWindow>(o, j);
  for (; j < o.count; ++j) sum_outputs<A, Op, 1, kWindow>(o, j);
}

// The kernel for a problem, whose windows have K rows and columns of neighbours, or 0.
template <class A, class Op>
SumRow<A> sum_kernel(int64_t window) {
  return window == 3 ? sums<A, Op, true> : sums<A, Op, false>;
}

}  // namespace dynfilters::cpu
