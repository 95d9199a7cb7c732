// Vectors across each other: square blocks of them transposed, and sums of many.
#pragma once
#include <utility>

#include "simd.h"

namespace dynfilters::cpu {

// Lane l of a where bit kHalf of l is not set, else lane l - kHalf of b, and the counterpart.
template <class A, int kHalf, int... l>
inline void swap_halves(Vector<A>& a, Vector<A>& b, std::integer_sequence<int, l...>) {
  constexpr Mask<A> low = {(l & kHalf ? kLanes<A> + l - kHalf : l)...};
  constexpr Mask<A> high = {(l & kHalf ? kLanes<A> + l : l + kHalf)...};
  const Vector<A> first = a, second = b;
#if defined(__clang__)
  a = __builtin_shufflevector(first, second, low[l]...), b = __builtin_shufflevector(first, second, high[l]...);
#else
  a = __builtin_shuffle(first, second, low), b = __builtin_shuffle(first, second, high);
#endif
}

template <class A, int kHalf>
inline void transpose_by(Vector<A>* rows) {
  constexpr int lanes = kLanes<A>;
#pragma GCC unroll 16
  for (int i = 0; i < lanes; ++i)
    if (!(i & kHalf)) swap_halves<A, kHalf>(rows[i], rows[i + kHalf], std::make_integer_sequence<int, lanes>());
  if constexpr (2 * kHalf < lanes) transpose_by<A, 2 * kHalf>(rows);
}

// to[j, i] = from[i, j] for i, j below the lanes.
template <class A>
inline void transpose_block(const A* from, int64_t from_pitch, A* to, int64_t to_pitch) {
  Vector<A> rows[kLanes<A>];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes<A>; ++i) rows[i] = load(from + i * from_pitch);
  transpose_by<A, 1>(rows);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes<A>; ++i) store(to + i * to_pitch, rows[i]);
}

// The sums of kCount vectors, each spread over as many neighbouring lanes as there is room for:
// for kCount = lanes, lane i is the sum of v[i].
template <class A, int kCount = kLanes<A>>
Vector<A> sums_of(const Vector<A>* v) {
#if __has_builtin(__builtin_shufflevector)
  if constexpr (kCount == 1) {
    return *v;
  } else {
    const Vector<A> a = sums_of<A, kCount / 2>(v), b = sums_of<A, kCount / 2>(v + kCount / 2);
    return [&]<int... i>(std::integer_sequence<int, i...>) {
      constexpr int lanes = kLanes<A>, width = lanes / kCount;
      constexpr auto lower = [](int lane) {
        return lane / (lanes / 2) * lanes + lane % (lanes / 2) / width * 2 * width + lane % width;
      };
      return __builtin_shufflevector(a, b, lower(i)...) + __builtin_shufflevector(a, b, (lower(i) + width)...);
    }(std::make_integer_sequence<int, kLanes<A>>());
  }
#else  // GCC before 12
  Vector<A> out{};
  for (int i = 0; i < kCount; ++i) out[i] = sum<A>(v[i]);
  return out;
#endif
}

}  // namespace dynfilters::cpu
