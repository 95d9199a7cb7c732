// Vectors of the accumulation type, through the compiler's vector extension: no intrinsics, so
// the same source serves AVX2, AVX-512 and NEON.
#pragma once
#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <new>
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

// kLanes<A> elements of a storage type, widened.
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

// Whether all numbers that it saw are so small that the product or sum of any two is finite.
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

// Memory whose vectors lie each in one line of the caches.
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

}  // namespace dynfilters::cpu
