// Vectors across each other: sums of many, and square blocks of them transposed.
#pragma once
#include <utility>

#include "simd.h"

namespace dynfilters::cpu {

// The sums of kCount vectors, each spread over as many neighbouring lanes as there is room for:
// for kCount = lanes, lane i is the sum of v[i].
template <class A, int kCount = kLanes<A>>
inline Vector<A> sums_of(const Vector<A>* v) {
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

// Lane j of v[i] becomes lane i of v[j]: each step doubles the runs of lanes that come from one vector.
template <class A>
inline void transpose(Vector<A>* v) {
  constexpr int lanes = kLanes<A>;
#if __has_builtin(__builtin_shufflevector)
#pragma GCC unroll 4
  for (int step = 1; step < lanes; step *= 2) {
    Vector<A> out[lanes];
    [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
#pragma GCC unroll 8
      for (int row = 0; row < lanes / 2; ++row) {
        const Vector<A> a = v[row], b = v[row + lanes / 2];
        out[2 * row] = __builtin_shufflevector(a, b, (i / 2 + i % 2 * lanes)...);
        out[2 * row + 1] = __builtin_shufflevector(a, b, (lanes / 2 + i / 2 + i % 2 * lanes)...);
      }
    }
    (std::make_integer_sequence<int, lanes>());
#pragma GCC unroll 16
    for (int row = 0; row < lanes; ++row) v[row] = out[row];
  }
#else  // GCC before 12
  for (int i = 0; i < lanes; ++i)
    for (int j = 0; j < i; ++j) {
      const A value = v[i][j];
      v[i][j] = v[j][i], v[j][i] = value;
    }
#endif
}

// to[j, i] = from[i, j] for i, j below the lanes.
template <class A>
inline void transpose_block(const A* from, int64_t from_pitch, A* to, int64_t to_pitch) {
  Vector<A> rows[kLanes<A>];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes<A>; ++i) rows[i] = load(from + i * from_pitch);
  transpose<A>(rows);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes<A>; ++i) store(to + i * to_pitch, rows[i]);
}

}  // namespace dynfilters::cpu
