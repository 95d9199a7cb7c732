// Vectors of the accumulation type: arithmetic, sums and transposes, through the compiler's vector extension and
// without intrinsics, so that the same source serves AVX2, AVX-512 and NEON.
#pragma once
#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

namespace dynfilters::cpu {

#ifdef __AVX512F__
inline constexpr int kVectorBytes = 64;
#else
inline constexpr int kVectorBytes = 32;
#endif

struct BFloat16 {
  uint16_t bits;
};
using Half = _Float16;

// The type that a storage type is accumulated in.
template <class T>
struct AccumulatorOf {
  using type = float;
};
template <>
struct AccumulatorOf<double> {
  using type = double;
};
template <class T>
using Accumulator = typename AccumulatorOf<T>::type;

template <class A>
inline constexpr int kLanes = kVectorBytes / int(sizeof(A));
template <class A>
struct VectorOf {
  typedef A type __attribute__((vector_size(kVectorBytes)));
};
template <class A>
using Vector = typename VectorOf<A>::type;
template <int kBytes>
struct MaskOf {
  typedef int32_t type __attribute__((vector_size(kVectorBytes)));
};
template <>
struct MaskOf<8> {
  typedef int64_t type __attribute__((vector_size(kVectorBytes)));
};
template <class A>
using Mask = typename MaskOf<int(sizeof(A))>::type;  // all ones or all zeros a lane

inline float to_acc(BFloat16 value) {
  uint32_t bits = uint32_t(value.bits) << 16;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}
inline float to_acc(Half value) { return float(value); }
inline float to_acc(float value) { return value; }
inline double to_acc(double value) { return value; }

inline void from_acc(float value, BFloat16* out) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  // Rounds to nearest even; a NaN must not round up to infinity.
  uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  out->bits = value != value ? uint16_t((bits >> 16) | 0x40) : uint16_t(rounded);
}
inline void from_acc(float value, Half* out) { *out = Half(value); }
inline void from_acc(float value, float* out) { *out = value; }
inline void from_acc(double value, double* out) { *out = value; }

template <class A>
inline Vector<A> load(const A* p) {
  Vector<A> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class A>
inline void store(A* p, Vector<A> v) {
  std::memcpy(p, &v, sizeof v);
}
template <class A>
inline Vector<A> splat(A value) {
  return value - Vector<A>{};
}

// kLanes<A> elements of a storage type, in the accumulation type.
template <class T>
inline Vector<Accumulator<T>> load_acc(const T* p) {
  using A = Accumulator<T>;
  if constexpr (sizeof(T) == sizeof(A)) {
    return load(reinterpret_cast<const A*>(p));
  } else {
    A lanes[kLanes<A>];
    for (int i = 0; i < kLanes<A>; ++i) lanes[i] = to_acc(p[i]);
    return load(lanes);
  }
}
template <class T>
inline void store_acc(T* p, Vector<Accumulator<T>> v) {
  using A = Accumulator<T>;
  if constexpr (sizeof(T) == sizeof(A)) {
    store(reinterpret_cast<A*>(p), v);
  } else {
    for (int i = 0; i < kLanes<A>; ++i) from_acc(v[i], p + i);
  }
}
// A sum in a fixed order: the upper half onto the lower, again and again.
template <class A, int kCount>
struct Lanes {
  typedef A type __attribute__((vector_size(kCount * sizeof(A))));
};
template <class A, int kCount = kLanes<A>>
inline A sum(typename Lanes<A, kCount>::type v) {
  if constexpr (kCount == 2) {
    return v[0] + v[1];
  } else {
    const auto half = std::bit_cast<std::array<typename Lanes<A, kCount / 2>::type, 2>>(v);
    return sum<A, kCount / 2>(half[0] + half[1]);
  }
}

// Tells whether all numbers that it was shown are so small that the product or sum of any two is finite.
template <class A>
class Bound {
 public:
  void see(Vector<A> value) { squares += value * value; }
  void see(const A* from, int64_t n) {
    constexpr int64_t lanes = kLanes<A>;
    if (n < lanes) {
      A few = 0;
      for (int64_t j = 0; j < n; ++j) few += from[j] * from[j];
      squares[0] += few;
      return;
    }
    Vector<A> others[3]{};  // so that no sum waits for the last one
    int64_t j = 0;
    for (; j + 4 * lanes <= n; j += 4 * lanes) {
      see(load(from + j));
      for (int i = 0; i < 3; ++i) {
        const Vector<A> value = load(from + j + (i + 1) * lanes);
        others[i] += value * value;
      }
    }
    for (; j < n; j += lanes) see(load(from + std::min(j, n - lanes)));
    squares += (others[0] + others[1]) + others[2];
  }
  // Neither too large a number nor NaN passes.
  bool holds() const { return sum<A>(squares) < A(0x1p120); }

 private:
  Vector<A> squares{};
};

// Aligned, so that each vector lies in one cache line.
template <class A>
struct LineAllocator {
  using value_type = A;
  LineAllocator() = default;
  template <class B>
  LineAllocator(const LineAllocator<B>&) {}
  A* allocate(size_t n) { return static_cast<A*>(::operator new(n * sizeof(A), std::align_val_t(64))); }
  void deallocate(A* p, size_t) { ::operator delete(p, std::align_val_t(64)); }
  bool operator==(const LineAllocator&) const = default;
};
template <class A>
using Buffer = std::vector<A, LineAllocator<A>>;

inline int64_t round_up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

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
    }(std::make_integer_sequence<int, lanes>());
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

// to[j, i] = from[i, j] for matrices of any size.
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
