#include "activate.h"

#include <algorithm>
#include <cmath>
#include <iterator>
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
// Functions of one tap, and their slopes.
template <class A>
struct Sigmoid {
  static Vector<A> value(Vector<A> x) { return splat(A(1)) / (splat(A(1)) + exponential(-x)); }
  // σ′(x) = e / (1 + e)², e = exp(−|x|), where σ·(1 − σ) would cancel.
  static Vector<A> slope(Vector<A> x) {
    const Vector<A> e = exponential(x < 0 ? x : -x);
    return e / ((splat(A(1)) + e) * (splat(A(1)) + e));
  }
};
template <class A>
struct Tanh {
  static Vector<float> value(Vector<float> x) {
    // 2·σ(2x) − 1 would cancel where x is small; there the series takes over, whose next term adds 2e-9.
    const Vector<float> q = x * x;
    Vector<float> series = splat(-1382.f / 155925);
    for (float c : {62.f / 2835, -17.f / 315, 2.f / 15, -1.f / 3, 1.f}) series = series * q + c;
    return q < splat(.09f) ? x * series : Sigmoid<float>::value(x * 2.f) * 2.f - 1.f;
  }
  static Vector<double> value(Vector<double> x) {
    for (int i = 0; i < kLanes<double>; ++i) x[i] = std::tanh(x[i]);
    return x;
  }
  static Vector<A> slope(Vector<A> x) { return Sigmoid<A>::slope(x * A(2)) * A(4); }
};

template <class A>
inline Vector<A> root(Vector<A> x) {
  for (int i = 0; i < kLanes<A>; ++i) x[i] = std::sqrt(x[i]);
  return x;
}

// The kinds: kLanes<A> filters side by side, one a lane. forward works in place; backward makes of the gradient in the
// activated taps that in the raw ones.
template <class A, template <class> class Function>
struct Elementwise {
  static void forward(const Activation&, A* taps, int64_t K, int64_t step) {
    for (int64_t k = 0; k < K; ++k) store(taps + k * step, Function<A>::value(load(taps + k * step)));
  }
  static void backward(const Activation&, const A* raw, A* grad, int64_t K, int64_t step, std::vector<A>&) {
    for (int64_t k = 0; k < K; ++k)
      store(grad + k * step, load(grad + k * step) * Function<A>::slope(load(raw + k * step)));
  }
};

template <class A>
struct Softmax {
  static void forward(const Activation&, A* taps, int64_t K, int64_t step) {
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
  static void backward(const Activation& how, const A* raw, A* grad, int64_t K, int64_t step, std::vector<A>& room) {
    room.resize(K * kLanes<A>);
    A* out = room.data();
    for (int64_t k = 0; k < K; ++k) store(out + k * kLanes<A>, load(raw + k * step));
    forward(how, out, K, kLanes<A>);
    Vector<A> dot{};
    for (int64_t k = 0; k < K; ++k) dot += load(grad + k * step) * load(out + k * kLanes<A>);
    for (int64_t k = 0; k < K; ++k) store(grad + k * step, load(out + k * kLanes<A>) * (load(grad + k * step) - dot));
  }
};

template <class A>
class FilterNorm {
 public:
  static void forward(const Activation& how, A* taps, int64_t K, int64_t step) {
    const FilterNorm norm(how, taps, K, step);
    for (int64_t k = 0; k < K; ++k) store(taps + k * step, norm.normed(taps + k * step) * A(how.gain));
  }
  static void backward(const Activation& how, const A* raw, A* grad, int64_t K, int64_t step, std::vector<A>&) {
    const FilterNorm norm(how, raw, K, step);
    Vector<A> dot{}, mean{};
    for (int64_t k = 0; k < K; ++k) {
      const Vector<A> g = load(grad + k * step);
      mean += g, dot += g * norm.normed(raw + k * step);
    }
    mean /= splat(A(K));
    // Through the std, where there is one.
    const Vector<A> through = norm.varies ? dot / (splat(A(K - 1)) * norm.std) : Vector<A>{};
    for (int64_t k = 0; k < K; ++k) {
      const Vector<A> centred = load(raw + k * step) - norm.first - norm.mean;
      store(grad + k * step, (((load(grad + k * step) - mean) - centred * through) * norm.inverse) * A(how.gain));
    }
  }

 private:
  Vector<A> first{}, mean{};   // the first tap; the mean of the taps less that one
  Vector<A> std{}, inverse{};  // inverse: 1 / (std + ε)
  Mask<A> varies;              // the taps are not all the same

  FilterNorm(const Activation& how, const A* taps, int64_t K, int64_t step) {
    // Against the first tap, constant taps are exactly zero, where subtracting a rounded mean would leave noise for the
    // division to blow up.
    first = load(taps);
    for (int64_t k = 0; k < K; ++k) mean += load(taps + k * step) - first;
    mean /= splat(A(K));
    Vector<A> variance{};
    for (int64_t k = 0; k < K; ++k) {
      const Vector<A> centred = load(taps + k * step) - first - mean;
      variance += centred * centred;
    }
    variance /= splat(A(K - 1));
    varies = variance > Vector<A>{};
    std = root<A>(varies ? variance : splat(A(1)));
    inverse = splat(A(1)) / (std + splat(A(how.eps)));
  }
  Vector<A> normed(const A* tap) const { return (load(tap) - first - mean) * inverse; }
};

// Any number of filters by one kind.
template <class A>
struct Functions {
  void (*forward)(const Activation&, A* taps, int64_t K, int64_t step, int64_t count);
  void (*backward)(const Activation&, const A* raw, A* grad, int64_t K, int64_t step, int64_t count);
};
template <class A, class Kind>
constexpr Functions<A> functions() {
  return {[](const Activation& how, A* taps, int64_t K, int64_t step, int64_t count) {
            for (int64_t i = 0; i < count; i += kLanes<A>) Kind::forward(how, taps + i, K, step);
          },
          [](const Activation& how, const A* raw, A* grad, int64_t K, int64_t step, int64_t count) {
            std::vector<A> room;
            for (int64_t i = 0; i < count; i += kLanes<A>) Kind::backward(how, raw + i, grad + i, K, step, room);
          }};
}

// A row for each kind, in the order of kActivations.
template <class A>
constexpr Functions<A> kFunctions[] = {
    {},  // identity
    functions<A, Elementwise<A, Sigmoid>>(),
    functions<A, Elementwise<A, Tanh>>(),
    functions<A, Softmax<A>>(),
    functions<A, FilterNorm<A>>(),
};
static_assert(std::size(kFunctions<float>) == std::size(kActivations));

}  // namespace

template <class A>
void activate(const Activation& how, A* taps, int64_t K, int64_t step, int64_t count) {
  if (!how.is_identity()) kFunctions<A>[int(how.kind)].forward(how, taps, K, step, count);
}

template <class A>
void activate_backward(const Activation& how, const A* raw, A* grad, int64_t K, int64_t step, int64_t count) {
  if (!how.is_identity()) kFunctions<A>[int(how.kind)].backward(how, raw, grad, K, step, count);
}

template void activate(const Activation&, float*, int64_t, int64_t, int64_t);
template void activate(const Activation&, double*, int64_t, int64_t, int64_t);
template void activate_backward(const Activation&, const float*, float*, int64_t, int64_t, int64_t);
template void activate_backward(const Activation&, const double*, double*, int64_t, int64_t, int64_t);

namespace {

// ---- channel taps ----

// The buffers of a thread for one block of channels, all (taps, lanes).
template <class T>
struct ChannelBlocks {
  using A = Accumulator<T>;
  static constexpr int64_t lanes = kLanes<A>;
  const ChannelTaps& t;
  ChannelLanes<A> io;
  std::vector<A> raw, std, out, grad;

  explicit ChannelBlocks(const ChannelTaps& taps)
      : t(taps), io(t.taps), raw(t.taps * lanes), std(raw.size(), A(1)), out(raw.size()), grad(raw.size()) {}

  int64_t size() const { return t.taps * lanes; }
  int64_t place(int64_t b, int64_t first, int64_t phase) const {
    return (b * t.channels + first) * t.taps * t.channel_phases + phase;
  }
  void read_raw(int64_t b, int64_t first, int64_t count, int64_t phase) {
    const T* from = static_cast<const T*>(t.raw) + b * t.strides[0] + first * t.strides[1] + phase * t.strides[3];
    io.read(from, count, t.strides[1], t.strides[2], raw.data(), behind(first));
  }
  void read_std(int64_t first, int64_t count, int64_t phase) {
    if (!t.std) return;
    const T* from = static_cast<const T*>(t.std) + first * t.taps * t.std_phases + std_phase(phase);
    io.read(from, count, t.taps * t.std_phases, t.std_phases, std.data());
  }
  // How many taps of a sample there are from channel `first` on, if phases do not lie between them.
  int64_t behind(int64_t first) const { return t.channel_phases > 1 ? 0 : (t.channels - first) * t.taps; }
  int64_t std_phase(int64_t phase) const { return t.std_phases > 1 ? phase : 0; }
  // to[k, i] = a[k, i] · b[k, i], or that added to it.
  static void multiply(const std::vector<A>& a, const std::vector<A>& b, A* to, bool add = false) {
    for (int64_t i = 0; i < int64_t(a.size()); i += lanes) {
      const Vector<A> product = load(a.data() + i) * load(b.data() + i);
      store(to + i, add ? load(to + i) + product : product);
    }
  }
};

template <class T>
void activate_samples(const ChannelTaps& t, const Activation& how, Accumulator<T>* out, int64_t begin, int64_t end) {
  constexpr int64_t lanes = ChannelBlocks<T>::lanes;
  ChannelBlocks<T> block(t);
  for (int64_t first = 0; first < t.channels; first += lanes) {
    const int64_t count = std::min(lanes, t.channels - first);
    for (int64_t phase = 0; phase < t.channel_phases; ++phase) {
      block.read_std(first, count, phase);
      for (int64_t b = begin; b < end; ++b) {
        block.read_raw(b, first, count, phase);
        activate(how, block.raw.data(), t.taps, lanes, lanes);
        block.multiply(block.raw, block.std, block.raw.data());
        block.io.write(block.raw.data(), count, t.taps * t.channel_phases, t.channel_phases,
                       out + block.place(b, first, phase), block.behind(first));
      }
    }
  }
}

template <class T>
void differentiate_channels(const ChannelTaps& t, const Activation& how, const Accumulator<T>* grad, T* grad_raw,
                            T* grad_std, int64_t begin, int64_t end) {
  using A = Accumulator<T>;
  constexpr int64_t lanes = ChannelBlocks<T>::lanes;
  ChannelBlocks<T> block(t);
  std::vector<A> total;  // (phases of std, taps, lanes)
  for (int64_t first = begin; first < end; first += lanes) {
    const int64_t count = std::min(lanes, end - first);
    total.assign(t.std_phases * block.size(), A(0));
    for (int64_t phase = 0; phase < t.channel_phases; ++phase) {
      block.read_std(first, count, phase);
      for (int64_t b = 0; b < t.batch; ++b) {
        const int64_t place = block.place(b, first, phase);
        block.read_raw(b, first, count, phase);
        block.io.read(grad + place, count, t.taps * t.channel_phases, t.channel_phases, block.grad.data(),
                      block.behind(first));
        if (grad_std) {
          block.out = block.raw;
          activate(how, block.out.data(), t.taps, lanes, lanes);
          block.multiply(block.grad, block.out, total.data() + block.std_phase(phase) * block.size(), true);
        }
        if (!grad_raw) continue;
        block.multiply(block.grad, block.std, block.grad.data());
        activate_backward(how, block.raw.data(), block.grad.data(), t.taps, lanes, lanes);
        block.io.write(block.grad.data(), count, t.taps * t.channel_phases, t.channel_phases, grad_raw + place);
      }
    }
    for (int64_t phase = 0; grad_std && phase < t.std_phases; ++phase)
      block.io.write(total.data() + phase * block.size(), count, t.taps * t.std_phases, t.std_phases,
                     grad_std + first * t.taps * t.std_phases + phase);
  }
}

}  // namespace

void activate_channel(const ChannelTaps& t, Storage storage, const Activation& how, void* out, int64_t begin,
                      int64_t end) {
  with_access(storage, [&](auto io) {
    using T = typename decltype(io)::storage;
    activate_samples<T>(t, how, static_cast<Accumulator<T>*>(out), begin, end);
  });
}

void activate_channel_backward(const ChannelTaps& t, Storage storage, const Activation& how, const void* grad,
                               void* grad_raw, void* grad_std, int64_t begin, int64_t end) {
  with_access(storage, [&](auto io) {
    using T = typename decltype(io)::storage;
    differentiate_channels<T>(t, how, static_cast<const Accumulator<T>*>(grad), static_cast<T*>(grad_raw),
                              static_cast<T*>(grad_std), begin, end);
  });
}

}  // namespace dynfilters::cpu
