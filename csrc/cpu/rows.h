// The innermost kernels for vectors along planes, over the flat positions of a tile (planar.h, flat.h). Each pass takes
// NT taps, because that many partner addresses and channel taps fit in registers; all passes over a tile stay in L1.
#pragma once
#include "../filter2d.h"
#include "simd.h"

namespace dynfilters::cpu {

// One tap: where its partner lies, relative to the window's (or pixel's) own flat position.
struct TapOffset {
  int64_t tap, offset;
};

// How many vectors cover the positions [0, N), N at least one vector: the last one ends at N, and so may overlap the
// one before.
template <class A>
inline int64_t vectors(int64_t N) {
  return (N + kLanes<A> - 1) / kLanes<A>;
}

// out[m] (+)= Σ over taps t of tap(s[m, t], c[tap_t]) · x[m + offset_t].
// s: (vectors, n, lanes), the taps of a vector of positions side by side. `nonfinite` becomes NaN where out is not
// finite.
template <class A>
using Correlate = void (*)(const TapOffset* taps, int64_t n, const A* x, const A* s, const A* c, int64_t N, A* out,
                           bool add, Vector<A>* nonfinite);

template <class A, class Op, int NT>
void correlate_some(const TapOffset* taps, int64_t n, const A* x, const A* s, const A* c, int64_t N, A* out, bool add,
                    Vector<A>* nonfinite) {
  constexpr int64_t lanes = kLanes<A>;
  Vector<A> weight[NT];
  const A* partner[NT];
#pragma GCC unroll 9
  for (int t = 0; t < NT; ++t) weight[t] = splat(Op::kChannel ? c[taps[t].tap] : A(0)), partner[t] = x + taps[t].offset;
  Vector<A> found = *nonfinite, before{};
  if (add) before = load(out + N - lanes);  // of the last vector, which may overlap what is written first
  for (int64_t v = 0, count = vectors<A>(N); v < count; ++v, s += n * lanes) {
    const int64_t m = std::min(v * lanes, N - lanes);
    Vector<A> total = before;
    if (add && v + 1 < count) total = load(out + m);
#pragma GCC unroll 9
    for (int t = 0; t < NT; ++t) {
      Vector<A> own{};
      if constexpr (Op::kSpatial) own = load(s + t * lanes);
      total += Op::tap(own, weight[t]) * load(partner[t] + m);
    }
    store(out + m, total);
    found += total - total;
  }
  *nonfinite = found;
}

template <class A, class Op>
void correlate(const TapOffset* taps, int64_t n, const A* x, const A* s, const A* c, int64_t N, A* out, bool add,
               Vector<A>* nonfinite) {
  if (!n && !add) std::fill(out, out + N, A(0));
  for (int64_t done = 0; done < n;) {
    const int64_t left = n - done;
    const auto some = [&](auto count) {
      correlate_some<A, Op, count.value>(taps + done, n, x, s + done * kLanes<A>, c, N, out, add || done, nonfinite);
      done += count.value;
    };
    if (sizeof(A) == 4 && left >= 9)
      some(std::integral_constant<int, sizeof(A) == 4 ? 9 : 1>{});
    else if (sizeof(A) == 4 && left >= 7)
      some(std::integral_constant<int, sizeof(A) == 4 ? 7 : 1>{});
    else if (left >= 3)
      some(std::integral_constant<int, 3>{});
    else
      some(std::integral_constant<int, 1>{});
  }
}

// With p = g[m] · x[m + offset_t] where mask is all ones, else 0:
// s_sums[m, t] += d_spatial(p, c[t]) and c_sums[t] += Σ_m d_channel(p, s[m, t]).
// Two channels of a group at a time, where there are two, share s and s_sums in registers. Both sums are computed
// although one alone may be wanted, which is rare: the products are there.
template <class A>
struct TapSums {
  struct {
    const A *x, *g, *c;
    A* c_sums;
  } of[2];
  int channels;
  const A* s;
  A* s_sums;
  const Mask<A>* mask;
  int64_t N;
};

template <class A>
using SumTaps = void (*)(const TapOffset* taps, int64_t n, const TapSums<A>& sums);

// For NC channels from `first` on.
template <class A, class Op, int NT, int NC>
void sum_some(const TapOffset* taps, int64_t n, int64_t done, const TapSums<A>& o, int first) {
  constexpr int64_t lanes = kLanes<A>;
  const auto* of = o.of + first;
  Vector<A> weight[NT][NC], total[NT][NC]{};
  for (int t = 0; t < NT; ++t)
    for (int i = 0; i < NC; ++i) weight[t][i] = splat(Op::kChannel ? of[i].c[done + t] : A(0));
  const A* s = o.s + done * lanes;
  A* s_sums = o.s_sums + done * lanes;
  for (int64_t v = 0, count = vectors<A>(o.N); v < count; ++v, s += n * lanes, s_sums += n * lanes) {
    const int64_t m = std::min(v * lanes, o.N - lanes);
    const Mask<A> inside = o.mask[v];
    Vector<A> g[NC];
    for (int i = 0; i < NC; ++i) g[i] = load(of[i].g + m);
#pragma GCC unroll 3
    for (int t = 0; t < NT; ++t) {
      Vector<A> own{}, both{};
      if constexpr (Op::kSpatial && Op::kChannel) own = load(s + t * lanes);
      if constexpr (Op::kSpatial) both = load(s_sums + t * lanes);
#pragma GCC unroll 2
      for (int i = 0; i < NC; ++i) {
        // Filler positions read real pixels: masked, not multiplied by zero, for the sake of infinities.
        const Vector<A> all = g[i] * load(of[i].x + taps[done + t].offset + m);
        const Vector<A> product = (Vector<A>)((Mask<A>)all & inside);
        if constexpr (Op::kSpatial) both += Op::d_spatial(product, weight[t][i]);
        if constexpr (Op::kChannel) total[t][i] += Op::d_channel(product, own);
      }
      if constexpr (Op::kSpatial) store(s_sums + t * lanes, both);
    }
  }
  for (int t = 0; Op::kChannel && t < NT; ++t)
    for (int i = 0; i < NC; ++i) of[i].c_sums[done + t] += sum<A>(total[t][i]);
}

template <class A, class Op>
void sum_taps(const TapOffset* taps, int64_t n, const TapSums<A>& o) {
  int64_t done = 0;
  const auto some = [&](auto count) {
    constexpr int together = sizeof(A) == 4 ? 2 : 1;
    int first = 0;
    for (; first + together <= o.channels; first += together)
      sum_some<A, Op, count.value, together>(taps, n, done, o, first);
    for (; first < o.channels; ++first) sum_some<A, Op, count.value, 1>(taps, n, done, o, first);
    done += count.value;
  };
  while (done + 3 <= n) some(std::integral_constant<int, 3>{});
  while (done < n) some(std::integral_constant<int, 1>{});
}

}  // namespace dynfilters::cpu
