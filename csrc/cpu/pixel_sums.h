// The innermost kernels for the gradients of taps, with vectors along the channels as in pixels.h.
#pragma once
#include "../filter2d.h"
#include "lines.h"

namespace dynfilters::cpu {

// For some outputs j of the channels of a group, with p = g[j] · pixel_t[j]:
// s_sums[t, j] = Σ_c d_spatial(p, channel[c, t]), c_sums[c, t] += Σ_j d_channel(p, s_t[j]).
// Both are made although one alone may be wanted, which is rare.
template <class A>
struct TapSumArgs {
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
  Prefetcher* prefetcher;  // a share of it for every 3 sources of a block of 4 outputs, and vector
  EdgeMask edges;          // of all outputs, for windows of 3: pixels that are not there are not read, and add nothing
};
template <class A>
using TapSumKernel = void (*)(const TapSumArgs<A>&);

// Where one load may serve many products, and there are registers, it must not be made anew for each.
template <class A>
DYNFILTERS_INLINE Vector<A> load_once(const A* from) {
  Vector<A> value = load(from);
  if constexpr (kVectorBytes == 64) asm("" : "+v"(value));
  return value;
}

// total: (NT, NP), each a sum over channels that is still spread over lanes.
template <class A, int NT, int NP>
DYNFILTERS_INLINE void store_sums(const Vector<A>* total, A* s_sums, int64_t step) {
  static_assert(NT * NP <= kLanes<A>);
  A found[kLanes<A>];
  store(found, sums_of<A>(total));
  for (int i = 0; i < NT; ++i) std::copy_n(found + i * NP, NP, s_sums + i * step);
}

// Sources t and following, NT of them, for the outputs j and following, NP of them. kWindow: each source
// and output is one pixel behind the last one.
template <class A, class Op, int NT, int NP, bool kWindow>
void sum_some(const TapSumArgs<A>& o, int64_t t, int64_t j) {
  constexpr int64_t lanes = kLanes<A>;
  const A *pixel[NT], *own[NT], *g = o.g + j * o.g_step, *channel = o.channel + t * lanes;
  A* c_sums = o.c_sums + t * lanes;
  const int64_t step = o.pixel_step, g_step = o.g_step, tap_vector = o.n * lanes;
  const bool before = !kWindow || o.edges.before || j > 0, behind = !kWindow || o.edges.behind || j + NP < o.count;
  constexpr int last = NT + NP - 2;
  const auto is_there = [=](int i) { return (i != 0 || before) && (i != last || behind); };
  for (int i = 0; i < NT; ++i) {
    pixel[i] = o.pixel[t + i] + o.pixel_offset + j * step;
    own[i] = Op::kSpatial ? o.s[t + i] + o.s_offset + j : nullptr;
  }
  Vector<A> total[lanes]{};  // (NT, NP)
  for (int64_t left = o.vectors, pixel_vector = o.pixel_vector, g_vector = o.g_vector; left > 0; --left) {
    o.prefetcher->fetch();
    Vector<A> grad[NP], column[NT + NP - 1];
#pragma GCC unroll 4
    for (int p = 0; p < NP; ++p) grad[p] = load_once(g + p * g_step);
#pragma GCC unroll 6
    for (int i = 0; kWindow && i <= last; ++i)
      if (is_there(i)) column[i] = load_once(pixel[0] + i * step);
#pragma GCC unroll 3
    for (int i = 0; i < NT; ++i) {
      Vector<A> weight{}, sums{};
      if constexpr (Op::kSpatial && Op::kChannel) weight = load_once(channel + i * lanes);
      if constexpr (Op::kChannel) sums = load(c_sums + i * lanes);
#pragma GCC unroll 4
      for (int p = 0; p < NP; ++p) {
        if (!is_there(i + p)) continue;
        const Vector<A> product = grad[p] * (kWindow ? column[i + p] : load(pixel[i] + p * step));
        if constexpr (Op::kSpatial) total[i * NP + p] += Op::d_spatial(product, weight);
        if constexpr (Op::kChannel) sums += Op::d_channel(product, splat(Op::kSpatial ? own[i][p] : A(0)));
      }
      if constexpr (Op::kChannel) store(c_sums + i * lanes, sums);
    }
    for (int i = 0; i < (kWindow ? 1 : NT); ++i) pixel[i] += pixel_vector;
    g += g_vector;
    if constexpr (Op::kChannel) channel += tap_vector, c_sums += tap_vector;
  }
  if constexpr (Op::kSpatial) store_sums<A, NT, NP>(total, o.s_sums + t * o.s_sums_step + j, o.s_sums_step);
}

// Whether the pixels under the row of a window that begins with source t are there.
template <class A, bool kWindow>
bool has_row(const TapSumArgs<A>& o, int64_t t) {
  return !kWindow || ((t > 0 || o.edges.above) && (t < 6 || o.edges.below));
}

template <class A, class Op, int NP, bool kWindow>
void sum_outputs(const TapSumArgs<A>& o, int64_t j) {
  int64_t t = 0;
  for (; t + 3 <= o.n; t += 3)
    if (has_row<A, kWindow>(o, t))
      sum_some<A, Op, 3, NP, kWindow>(o, t, j);
    else
      for (int i = 0; i < 3; ++i) std::fill_n(o.s_sums + (t + i) * o.s_sums_step + j, NP, A(0));
  if constexpr (!kWindow)
    for (; t < o.n; ++t) sum_some<A, Op, 1, NP, false>(o, t, j);
}

// By as many outputs at a time as there are registers for, and as leave few alone.
template <class A, class Op, bool kWindow>
void sums(const TapSumArgs<A>& o) {
  int64_t j = 0;
  if constexpr (kVectorBytes == 64) {
    const int64_t few = -o.count & 3, threes = 3 * few <= o.count ? few : 0;
    for (; j < 3 * threes; j += 3) sum_outputs<A, Op, 3, kWindow>(o, j);
    for (; j + 4 <= o.count; j += 4) sum_outputs<A, Op, 4, kWindow>(o, j);
  } else {
    for (; j + 2 <= o.count; j += 2) sum_outputs<A, Op, 2, kWindow>(o, j);
  }
  for (; j < o.count; ++j) sum_outputs<A, Op, 1, kWindow>(o, j);
}

// The kernel for a problem, whose windows have K rows and columns of neighbours, or 0.
template <class A, class Op>
TapSumKernel<A> tap_sum_kernel_for(int64_t window) {
  return window == 3 ? sums<A, Op, true> : sums<A, Op, false>;
}

}  // namespace dynfilters::cpu
