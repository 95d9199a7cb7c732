#include "activate.h"

#include <cmath>
#include <vector>

namespace dynfilters::cpu {

namespace {

// e^x = 2^n · e^r with |r| ≤ ln 2 / 2, and e^r by its series; within 2 units in the last place.
inline Vector<float> exponential(Vector<float> x) {
  const Vector<float> most = splat(88.3f), least = splat(-87.3f);
  x = x > most ? most : x;
  x = x < least ? least : x;                                                 // a NaN stays
  const Vector<float> t = x * 1.44269504f + 12582912.f, n = t - 12582912.f;  // 1.5·2^23: rounds to an integer
  const Vector<float> r = (x - n * 0.693145752f) - n * 1.42860677e-6f;
  Vector<float> e = splat(1.f / 5040);
  for (float c : {1.f / 720, 1.f / 120, 1.f / 24, 1.f / 6, .5f, 1.f, 1.f}) e = e * r + c;
  const Mask<float> power = ((Mask<float>)t << 23) + (127 << 23);
  return e * (Vector<float>)power;
}
inline Vector<double> exponential(Vector<double> x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = std::exp(x[i]);
  return x;
}
template <class A>
inline Vector<A> sigmoid(Vector<A> x) {
  return splat(A(1)) / (splat(A(1)) + exponential(-x));
}
// 2·σ(2x) − 1 would cancel where x is small; there the series takes over, whose next term adds 2e-9.
inline Vector<float> hyperbolic(Vector<float> x) {
  const Vector<float> q = x * x;
  Vector<float> series = splat(-1382.f / 155925);
  for (float c : {62.f / 2835, -17.f / 315, 2.f / 15, -1.f / 3, 1.f}) series = series * q + c;
  return q < splat(.09f) ? x * series : sigmoid<float>(x * 2.f) * 2.f - 1.f;
}
inline Vector<double> hyperbolic(Vector<double> x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = std::tanh(x[i]);
  return x;
}
template <class A>
inline Vector<A> root(Vector<A> x) {
  for (int i = 0; i < kLanes<A>; ++i) x[i] = std::sqrt(x[i]);
  return x;
}

// Filters at `taps`, one a lane.
template <class A>
struct Norm {
  Vector<A> mean{}, std{}, inverse{};  // of what is left of the first tap; 1 / (std + ε)
  Vector<A> first{};

  Norm(const Activation& how, const A* taps, int64_t K, int64_t step) {
    // Against the first tap, constant taps are exactly zero, where subtracting a rounded mean
    // would leave noise for the division to blow up.
    first = load(taps);
    for (int64_t k = 0; k < K; ++k) mean += load(taps + k * step) - first;
    mean /= splat(A(K));
    Vector<A> variance{};
    for (int64_t k = 0; k < K; ++k) {
      const Vector<A> centred = load(taps + k * step) - first - mean;
      variance += centred * centred;
    }
    variance /= splat(A(K - 1));
    spread = variance > Vector<A>{};
    std = root<A>(spread ? variance : splat(A(1)));
    inverse = splat(A(1)) / (std + splat(A(how.eps)));
  }
  Vector<A> normed(const A* tap) const { return (load(tap) - first - mean) * inverse; }
  Mask<A> spread;  // not constant
};

template <class A>
void softmax(A* taps, int64_t K, int64_t step) {
  Vector<A> most = load(taps), total{};
  for (int64_t k = 1; k < K; ++k) {
    const Vector<A> t = load(taps + k * step);
    most = t > most ? t : most;
  }
  for (int64_t k = 0; k < K; ++k) {
    const Vector<A> e = exponential(load(taps + k * step) - most);
    total += e, store(taps + k * step, e);
  }
  for (int64_t k = 0; k < K; ++k) store(taps + k * step, load(taps + k * step) / total);
}

template <class A>
void softmax_backward(const A* raw, A* grad, int64_t K, int64_t step, A* out) {
  for (int64_t k = 0; k < K; ++k) store(out + k * kLanes<A>, load(raw + k * step));
  softmax(out, K, kLanes<A>);
  Vector<A> dot{};
  for (int64_t k = 0; k < K; ++k) dot += load(grad + k * step) * load(out + k * kLanes<A>);
  for (int64_t k = 0; k < K; ++k) store(grad + k * step, load(out + k * kLanes<A>) * (load(grad + k * step) - dot));
}

template <class A>
void norm_backward(const Activation& how, const A* raw, A* grad, int64_t K, int64_t step) {
  const Norm<A> norm(how, raw, K, step);
  Vector<A> dot{}, mean{};
  for (int64_t k = 0; k < K; ++k) {
    const Vector<A> g = load(grad + k * step);
    mean += g, dot += g * norm.normed(raw + k * step);
  }
  mean /= splat(A(K));
  // Through the std, where there is one.
  const Vector<A> through = norm.spread ? dot / (splat(A(K - 1)) * norm.std) : Vector<A>{};
  for (int64_t k = 0; k < K; ++k) {
    const Vector<A> centred = load(raw + k * step) - norm.first - norm.mean;
    store(grad + k * step, (((load(grad + k * step) - mean) - centred * through) * norm.inverse) * A(how.gain));
  }
}

}  // namespace

template <class A>
void activate(const Activation& how, A* taps, int64_t K, int64_t step, int64_t count) {
  if (how.is_identity()) return;
  for (int64_t i = 0; i < count; i += kLanes<A>) {
    if (how.kind == ActivationKind::kSoftmax) {
      softmax(taps + i, K, step);
    } else if (how.kind == ActivationKind::kFilterNorm) {
      const Norm<A> norm(how, taps + i, K, step);
      for (int64_t k = 0; k < K; ++k) store(taps + i + k * step, norm.normed(taps + i + k * step) * A(how.gain));
    } else {
      const bool tanh = how.kind == ActivationKind::kTanh;
      for (int64_t k = 0; k < K; ++k) {
        A* tap = taps + i + k * step;
        store(tap, tanh ? hyperbolic(load(tap)) : sigmoid<A>(load(tap)));
      }
    }
  }
}

template <class A>
void activate_backward(const Activation& how, const A* raw, A* grad, int64_t K, int64_t step, int64_t count) {
  if (how.is_identity()) return;
  std::vector<A> out(how.kind == ActivationKind::kSoftmax ? K * kLanes<A> : 0);
  for (int64_t i = 0; i < count; i += kLanes<A>) {
    if (how.kind == ActivationKind::kSoftmax) {
      softmax_backward(raw + i, grad + i, K, step, out.data());
    } else if (how.kind == ActivationKind::kFilterNorm) {
      norm_backward(how, raw + i, grad + i, K, step);
    } else {
      const bool tanh = how.kind == ActivationKind::kTanh;
      for (int64_t k = 0; k < K; ++k) {
        // σ′(z) = e / (1 + e)², e = exp(−|z|), where σ·(1 − σ) would cancel; tanh′(x) = 4·σ′(2x).
        const Vector<A> z = load(raw + i + k * step) * A(tanh ? 2 : 1), e = exponential(z < 0 ? z : -z);
        const Vector<A> slope = e / ((splat(A(1)) + e) * (splat(A(1)) + e)) * A(tanh ? 4 : 1);
        store(grad + i + k * step, load(grad + i + k * step) * slope);
      }
    }
  }
}

template void activate(const Activation&, float*, int64_t, int64_t, int64_t);
template void activate(const Activation&, double*, int64_t, int64_t, int64_t);
template void activate_backward(const Activation&, const float*, float*, int64_t, int64_t, int64_t);
template void activate_backward(const Activation&, const double*, double*, int64_t, int64_t, int64_t);

}  // namespace dynfilters::cpu
