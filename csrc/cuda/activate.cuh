// Activations of filters and their gradients, for one thread; the formulas are in
// dynfilters/ops/activations.py. Which activation it is, is a uniform branch at run time: as a
// template argument it would multiply the kernels by five.
//
// Accumulation: in the accumulation type, over the taps of a filter in their order: deterministic.
#pragma once
#include <cmath>

#include "../activation.h"
#include "memory.cuh"

namespace dynfilters::cuda {

// What the activation of a tap needs of the other taps of its filter. With it a tap is activated by itself, wherever it
// is read: backward, the taps of a pixel of x belong to as many windows as there are taps.
template <class A>
struct Statistics {
  static constexpr int kNumbers = 4;
  A shift = 0;   // softmax: the largest tap; filter_norm: the first tap
  A mean = 0;    // filter_norm: of the taps less the first
  A factor = 1;  // softmax: 1 / Σ exp(t - shift); filter_norm: 1 / (std + ε)
  A slope = 0;   // filter_norm: 1 / (std · (K - 1))

  // Reads and writes whole 16-byte words.
  static __device__ __forceinline__ Statistics load(const A* from) {
    constexpr int n = 16 / sizeof(A);
    A numbers[kNumbers / n][n];
#pragma unroll
    for (int i = 0; i < kNumbers / n; ++i) read(from + i * n, numbers[i]);
    Statistics s;
    __builtin_memcpy(&s, numbers, sizeof(s));
    return s;
  }
  __device__ __forceinline__ void store(A* to) const {
    constexpr int n = 16 / sizeof(A);
    A numbers[kNumbers / n][n];
    __builtin_memcpy(numbers, this, sizeof(numbers));
#pragma unroll
    for (int i = 0; i < kNumbers / n; ++i) write(to + i * n, numbers[i]);
  }
};

// For a filter: the mean of the gradient in its activated taps, and the sum of its products with
// them (before the gain).
template <class A>
struct GradientSums {
  A mean = 0, dot = 0;
};

// at(k) is tap k of a filter, wherever it is kept. Unroll: the number of taps where they are in
// registers, else 1. kKnown: the kind, where that is known to the compiler.
constexpr int kUnknown = -1;

template <class A, int kKnown = kUnknown>
struct Activator {
  ActivationKind kind;
  A gain, eps;          // of filter_norm
  const A* statistics;  // of all filters, one after the other; null where no kernel reads them

  __host__ __device__ __forceinline__ bool is(ActivationKind one) const {
    return kKnown == kUnknown ? kind == one : kKnown == int(one);
  }
  __host__ __device__ __forceinline__ bool is_identity() const { return is(ActivationKind::kIdentity); }

  // Calls f with an activator for loops over taps. It knows its kind where a tap takes next to
  // nothing, so that the loop holds no branch; else it finds out at each tap, since the longer
  // kinds would each have a loop of their own to compile.
  template <class F>
  __device__ __forceinline__ void with(const F& f) const {
    constexpr int identity = int(ActivationKind::kIdentity), norm = int(ActivationKind::kFilterNorm);
    if (is(ActivationKind::kIdentity)) return f(Activator<A, identity>{kind, gain, eps, statistics});
    if (is(ActivationKind::kFilterNorm)) return f(Activator<A, norm>{kind, gain, eps, statistics});
    f(*this);
  }

  template <int Unroll, class At>
  __device__ __forceinline__ Statistics<A> statistics_of(int taps, const At& at) const {
    if (is(ActivationKind::kSoftmax)) return of_softmax<Unroll>(taps, at);
    return is(ActivationKind::kFilterNorm) ? of_norm<Unroll>(taps, at) : Statistics<A>{};
  }
  // Statistics of a filter that are left in memory.
  __device__ __forceinline__ Statistics<A> statistics_at(int64_t filter) const {
    if (!has_statistics()) return {};
    return Statistics<A>::load(statistics + filter * Statistics<A>::kNumbers);
  }

  __device__ __forceinline__ A finish(A tap, const Statistics<A>& s) const {
    return is(ActivationKind::kFilterNorm) ? apply(tap, s) * gain : apply(tap, s);
  }
  __device__ __forceinline__ A finish_at(A tap, int64_t filter) const { return finish(tap, statistics_at(filter)); }

  // A whole filter, in place: at(k) is a reference.
  template <int Unroll, class At>
  __device__ __forceinline__ void activate(int taps, const At& at) const {
    if (is_identity()) return;
    with([&](const auto& how) {
      const Statistics<A> s = how.template statistics_of<Unroll>(taps, at);
#pragma unroll Unroll
      for (int k = 0; k < taps; ++k) at(k) = how.finish(at(k), s);
    });
  }

  // grad(k): in activated tap k.
  template <int Unroll, class At, class Grad>
  __device__ __forceinline__ GradientSums<A> sums_of(int taps, const At& at, const Grad& grad,
                                                     const Statistics<A>& s) const {
    GradientSums<A> sums;
    if (!has_statistics()) return sums;
#pragma unroll Unroll
    for (int k = 0; k < taps; ++k) {
      const A g = grad(k);
      sums.mean += g, sums.dot += g * apply(at(k), s);
    }
    sums.mean /= A(taps);
    return sums;
  }
  // The gradient in a raw tap, from that in the activated one.
  __device__ __forceinline__ A gradient(A grad, A tap, const Statistics<A>& s, const GradientSums<A>& sums) const {
    const A out = apply(tap, s);
    if (is(ActivationKind::kSigmoid)) return grad * out * (A(1) - out);
    if (is(ActivationKind::kTanh)) return grad * (A(1) - out) * (A(1) + out);
    if (is(ActivationKind::kSoftmax)) return out * (grad - sums.dot);
    if (is(ActivationKind::kFilterNorm))
      return (grad - sums.mean - (tap - s.shift - s.mean) * (sums.dot * s.slope)) * s.factor * gain;
    return grad;
  }

 private:
  __device__ __forceinline__ bool has_statistics() const {
    return is(ActivationKind::kSoftmax) || is(ActivationKind::kFilterNorm);
  }
  // The activated tap, before the gain.
  __device__ __forceinline__ A apply(A tap, const Statistics<A>& s) const {
    if (is(ActivationKind::kSigmoid)) return A(1) / (A(1) + std::exp(-tap));
    if (is(ActivationKind::kTanh)) return std::tanh(tap);
    if (is(ActivationKind::kSoftmax)) return std::exp(tap - s.shift) * s.factor;
    if (is(ActivationKind::kFilterNorm)) return (tap - s.shift - s.mean) * s.factor;
    return tap;
  }
  template <int Unroll, class At>
  __device__ __forceinline__ static Statistics<A> of_softmax(int taps, const At& at) {
    Statistics<A> s;
    A total = 0;
    s.shift = at(0);
#pragma unroll Unroll
    for (int k = 1; k < taps; ++k) s.shift = at(k) > s.shift ? at(k) : s.shift;
#pragma unroll Unroll
    for (int k = 0; k < taps; ++k) total += std::exp(at(k) - s.shift);
    s.factor = A(1) / total;
    return s;
  }
  // Against the first tap, constant taps are exactly zero, where subtracting a rounded mean would
  // leave noise for the division to blow up.
  template <int Unroll, class At>
  __device__ __forceinline__ Statistics<A> of_norm(int taps, const At& at) const {
    Statistics<A> s;
    A variance = 0;
    s.shift = at(0);
#pragma unroll Unroll
    for (int k = 0; k < taps; ++k) s.mean += at(k) - s.shift;
    s.mean /= A(taps);
#pragma unroll Unroll
    for (int k = 0; k < taps; ++k) {
      const A centred = at(k) - s.shift - s.mean;
      variance += centred * centred;
    }
    variance /= A(taps - 1);
    const A std = std::sqrt(variance > 0 ? variance : A(1));  // 1 gives constant taps a gradient without 1 / ε
    s.factor = A(1) / (std + eps);
    s.slope = A(1) / (std * A(taps - 1));
    return s;
  }
};

}  // namespace dynfilters::cuda
