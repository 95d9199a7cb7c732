// Between storage types and the accumulation type. What runs over whole planes takes these as function pointers and is
// compiled for float and double only.
#pragma once
#include <algorithm>
#include <type_traits>
#include <utility>
#include <vector>

#include "../filter2d.h"
#include "simd.h"

namespace dynfilters::cpu {

// Copies rows × cols elements, strides in elements. On the side of the accumulation type columns are side by side.
template <class A>
struct Access {
  using type = A;
  int64_t bytes;
  void (*read)(const void* from, int64_t rows, int64_t row_stride, int64_t cols, int64_t col_stride, A* to,
               int64_t pitch);
  // Vectors that are side by side in a row, each to a line of its own: (vectors, rows, lanes).
  void (*read_vectors)(const void* from, int64_t rows, int64_t row_stride, int64_t vectors, A* to, int64_t line);
  void (*write)(const A* from, int64_t pitch, int64_t rows, int64_t cols, void* to, int64_t row_stride,
                int64_t col_stride);
};

// Copies a row by whole vectors, the last one overlapping the one before, so that nothing beyond the row is touched.
template <class T>
inline void read_row(const T* from, int64_t n, Accumulator<T>* to) {
  using A = Accumulator<T>;
  constexpr int64_t lanes = kLanes<A>;
  if (n >= lanes) {
    for (int64_t j = 0; j + lanes <= n; j += lanes) store(to + j, load_acc(from + j));
    if (n % lanes) store(to + n - lanes, load_acc(from + n - lanes));
  } else {
    for (int64_t j = 0; j < n; ++j) to[j] = to_acc(from[j]);
  }
}
template <class T>
inline void write_row(const Accumulator<T>* from, int64_t n, T* to) {
  using A = Accumulator<T>;
  constexpr int64_t lanes = kLanes<A>;
  if (n >= lanes) {
    for (int64_t j = 0; j + lanes <= n; j += lanes) store_acc(to + j, load(from + j));
    if (n % lanes) store_acc(to + n - lanes, load(from + n - lanes));
  } else {
    for (int64_t j = 0; j < n; ++j) from_acc(from[j], to + j);
  }
}

// Every second element.
inline void read_alternate(const float* from, int64_t n, float* to) {
  int64_t j = 0;
#if __has_builtin(__builtin_shufflevector)
  constexpr int64_t lanes = kLanes<float>;
  const auto even = []<int... i>(Vector<float> a, Vector<float> b, std::integer_sequence<int, i...>) {
    return __builtin_shufflevector(a, b, 2 * i...);
  };
  for (; j + lanes < n; j += lanes)  // the last load ends with an element that is not wanted: it must be there
    store(to + j, even(load(from + 2 * j), load(from + 2 * j + lanes), std::make_integer_sequence<int, lanes>()));
#endif
  for (; j < n; ++j) to[j] = from[2 * j];
}

template <class T>
void read_block(const void* from, int64_t rows, int64_t row_stride, int64_t cols, int64_t col_stride,
                Accumulator<T>* to, int64_t pitch) {
  auto source = static_cast<const T*>(from);
  for (int64_t i = 0; i < rows; ++i, source += row_stride, to += pitch)
    if (col_stride == 1)
      read_row(source, cols, to);
    else if (std::is_same_v<T, float> && col_stride == 2)  // the taps of a phase, scale 2
      read_alternate(reinterpret_cast<const float*>(source), cols, reinterpret_cast<float*>(to));
    else
      for (int64_t j = 0; j < cols; ++j) to[j] = to_acc(source[j * col_stride]);
}
template <class T>
void read_vectors(const void* from, int64_t rows, int64_t row_stride, int64_t vectors, Accumulator<T>* to,
                  int64_t line) {
  constexpr int64_t lanes = kLanes<Accumulator<T>>;
  auto source = static_cast<const T*>(from);
  for (int64_t v = 0; v < vectors; ++v, source += lanes, to += line)
    for (int64_t i = 0; i < rows; ++i) store(to + i * lanes, load_acc(source + i * row_stride));
}
template <class T>
void write_block(const Accumulator<T>* from, int64_t pitch, int64_t rows, int64_t cols, void* to, int64_t row_stride,
                 int64_t col_stride) {
  auto target = static_cast<T*>(to);
  for (int64_t i = 0; i < rows; ++i, target += row_stride, from += pitch)
    if (col_stride == 1)
      write_row(from, cols, target);
    else
      for (int64_t j = 0; j < cols; ++j) from_acc(from[j], target + j * col_stride);
}

template <class T>
struct AccessTo : Access<Accumulator<T>> {
  using storage = T;
  AccessTo() : Access<Accumulator<T>>{int64_t(sizeof(T)), read_block<T>, read_vectors<T>, write_block<T>} {}
};

// Calls f(AccessTo<T>()) for the storage type T.
template <class F>
auto with_access(Storage storage, const F& f) {
  switch (storage) {
    case Storage::kFloat64: return f(AccessTo<double>());
    case Storage::kFloat32: return f(AccessTo<float>());
    case Storage::kBFloat16: return f(AccessTo<BFloat16>());
    case Storage::kFloat16: break;
  }
  return f(AccessTo<Half>());
}

// Likewise for all types but float64, which the passes over vectors of channels do not serve.
template <class F>
auto with_short_access(Storage storage, const F& f) {
  if (storage == Storage::kBFloat16) return f(AccessTo<BFloat16>());
  return storage == Storage::kFloat16 ? f(AccessTo<Half>()) : f(AccessTo<float>());
}

// Channel taps of up to `lanes` channels at one phase, one channel a lane: (taps, lanes). In memory channels lie one
// behind the other, most often with nothing between them: then whole vectors are read and transposed.
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
