#include <algorithm>
#include <vector>

#include "activate.h"
#include "channel_lanes.h"
#include "select.h"

namespace dynfilters::cpu {

namespace {

// Whatever of the channel taps a thread needs at hand, all (taps, lanes).
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
  // Taps of a sample from channel `first` on, if phases do not lie between them.
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
