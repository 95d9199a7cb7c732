// Channel taps to vectors of channels, and back.
#pragma once
#include <algorithm>
#include <type_traits>
#include <vector>

#include "storage.h"
#include "transpose.h"

namespace dynfilters::cpu {

// A run of channels at one phase, one channel a lane: (taps, lanes). In memory they lie a channel
// after the other, most often with nothing between: then by whole vectors, which are transposed.
template <class A>
class ChannelLanes {
 public:
  static constexpr int64_t lanes = kLanes<A>;

  explicit ChannelLanes(int64_t taps) : taps_(taps), flat_((taps + 1) * lanes) {}

  // readable: how many taps there are from `from` on, if nothing is between them.
  template <class T>
  void read(const T* from, int64_t count, int64_t channel_step, int64_t tap_step, A* to, int64_t readable = 0) {
    if (tap_step != 1 || channel_step != taps_) {
      for (int64_t i = 0; i < count; ++i)
        for (int64_t k = 0; k < taps_; ++k) to[k * lanes + i] = to_acc(from[i * channel_step + k * tap_step]);
      return;
    }
    const A* rows = flat_.data();
    // A vector of a channel's taps may reach beyond them, and those of a last channel beyond all.
    if (std::is_same_v<T, A> && count == lanes && readable >= count * taps_ + lanes)
      rows = reinterpret_cast<const A*>(from);
    else
      read_row(from, count * taps_, flat_.data());
    Vector<A> v[lanes];
    for (int64_t k = 0; k < taps_; k += lanes) {
#pragma GCC unroll 16
      for (int i = 0; i < lanes; ++i) v[i] = load(rows + i * taps_ + k);
      transpose<A>(v);
      for (int64_t j = 0; j < std::min(lanes, taps_ - k); ++j) store(to + (k + j) * lanes, v[j]);
    }
  }
  // writable: how many taps there is room for from `to` on, all to be written later but the first ones.
  template <class T>
  void write(const A* from, int64_t count, int64_t channel_step, int64_t tap_step, T* to, int64_t writable = 0) {
    if (tap_step != 1 || channel_step != taps_) {
      for (int64_t i = 0; i < count; ++i)
        for (int64_t k = 0; k < taps_; ++k) from_acc(from[k * lanes + i], to + i * channel_step + k * tap_step);
      return;
    }
    // The last tap first, because its vectors reach into the first taps of the next channel.
    const bool at_once = std::is_same_v<T, A> && count == lanes && writable >= count * taps_ + lanes;
    A* rows = at_once ? reinterpret_cast<A*>(to) : flat_.data();
    Vector<A> v[lanes];
    for (int64_t k = (taps_ - 1) / lanes * lanes; k >= 0; k -= lanes) {
      for (int64_t j = 0; j < lanes; ++j) v[j] = load(from + std::min(k + j, taps_ - 1) * lanes);
      transpose<A>(v);
      for (int i = 0; i < lanes; ++i) store(rows + i * taps_ + k, v[i]);
    }
    if (!at_once) write_row(flat_.data(), count * taps_, to);
  }

 private:
  const int64_t taps_;
  std::vector<A> flat_;  // (lanes, taps), and room for a vector that begins at the last one
};

}  // namespace dynfilters::cpu
