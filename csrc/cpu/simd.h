// Vectors of the accumulation type, through the compiler's vector extension: no intrinsics, so
// the same source serves AVX2, AVX-512 and NEON.
#pragma once
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <utility>

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

inline float widen(BFloat16 value) {
  uint32_t bits = uint32_t(value.bits) << 16;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}
inline float widen(Half value) { return float(value); }
inline float widen(float value) { return value; }
inline double widen(double value) { return value; }

inline void narrow(float value, BFloat16* out) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  // Rounds to nearest even; a NaN must not round up to infinity.
  uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  out->bits = value != value ? uint16_t((bits >> 16) | 0x40) : uint16_t(rounded);
}
inline void narrow(float value, Half* out) { *out = Half(value); }
inline void narrow(float value, float* out) { *out = value; }
inline void narrow(double value, double* out) { *out = value; }

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

// kLanes<A> elements of a storage type, widened.
template <class T>
inline Vector<Accumulator<T>> load_wide(const T* p) {
  using A = Accumulator<T>;
  if constexpr (sizeof(T) == sizeof(A)) {
    return load(reinterpret_cast<const A*>(p));
  } else {
    A lanes[kLanes<A>];
    for (int i = 0; i < kLanes<A>; ++i) lanes[i] = widen(p[i]);
    return load(lanes);
  }
}
template <class T>
inline void store_narrow(T* p, Vector<Accumulator<T>> v) {
  using A = Accumulator<T>;
  if constexpr (sizeof(T) == sizeof(A)) {
    store(reinterpret_cast<A*>(p), v);
  } else {
    for (int i = 0; i < kLanes<A>; ++i) narrow(v[i], p + i);
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

inline int64_t round_up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

}  // namespace dynfilters::cpu
