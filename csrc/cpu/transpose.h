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

// to[j, i] = from[i, j] for i, j below 8: of half vectors, all of which there are registers for.
inline void transpose_eight(const float* from, int64_t from_pitch, float* to, int64_t to_pitch) {
#if __has_builtin(__builtin_shufflevector)
  using Four = Lanes<float, 4>::type;
  using Eight = Lanes<float, 8>::type;
#pragma GCC unroll 2
  for (int half = 0; half < 8; half += 4) {
    Eight row[4];  // i and i + 4, of four columns
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      Four upper, lower;
      std::memcpy(&upper, from + i * from_pitch + half, sizeof upper);
      std::memcpy(&lower, from + (i + 4) * from_pitch + half, sizeof lower);
      row[i] = __builtin_shufflevector(upper, lower, 0, 1, 2, 3, 4, 5, 6, 7);
    }
    Eight pair[4];  // of two columns: of the rows 0 and 1, then of 2 and 3
#pragma GCC unroll 2
    for (int i = 0; i < 4; i += 2) {
      pair[i] = __builtin_shufflevector(row[i], row[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
      pair[i + 1] = __builtin_shufflevector(row[i], row[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const Eight first = __builtin_shufflevector(pair[i], pair[i + 2], 0, 1, 8, 9, 4, 5, 12, 13);
      const Eight second = __builtin_shufflevector(pair[i], pair[i + 2], 2, 3, 10, 11, 6, 7, 14, 15);
      std::memcpy(to + (half + 2 * i) * to_pitch, &first, sizeof first);
      std::memcpy(to + (half + 2 * i + 1) * to_pitch, &second, sizeof second);
    }
  }
#else  // GCC before 12
  for (int i = 0; i < 8; ++i)
    for (int j = 0; j < 8; ++j) to[j * to_pitch + i] = from[i * from_pitch + j];
#endif
}

// The same of any size.
inline void transpose_matrix(const float* from, int64_t rows, int64_t cols, int64_t from_pitch, float* to,
                             int64_t to_pitch) {
  const int64_t block_rows = rows / 8 * 8, block_cols = cols / 8 * 8;
  for (int64_t i = 0; i < block_rows; i += 8)
    for (int64_t j = 0; j < block_cols; j += 8)
      transpose_eight(from + i * from_pitch + j, from_pitch, to + j * to_pitch + i, to_pitch);
  for (int64_t i = 0; i < block_rows; ++i)
    for (int64_t j = block_cols; j < cols; ++j) to[j * to_pitch + i] = from[i * from_pitch + j];
  for (int64_t i = block_rows; i < rows; ++i)
    for (int64_t j = 0; j < cols; ++j) to[j * to_pitch + i] = from[i * from_pitch + j];
}

}  // namespace dynfilters::cpu
