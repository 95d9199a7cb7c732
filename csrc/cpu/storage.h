// Between storage types and the accumulation type. What runs over whole planes takes these as
// function pointers and is compiled for float and double only.
#pragma once
#include <type_traits>
#include <utility>

#include "../filter2d.h"
#include "simd.h"

namespace dynfilters::cpu {

// rows × cols elements, the strides in elements; the dense side has its columns side by side.
template <class A>
struct Access {
  using type = A;
  int64_t bytes;
  void (*read)(const void* from, int64_t rows, int64_t row_stride, int64_t cols, int64_t col_stride, A* to,
               int64_t pitch);
  // The same of vectors that lie side by side in a row, to lines of their own: (vectors, rows, lanes).
  void (*read_vectors)(const void* from, int64_t rows, int64_t row_stride, int64_t vectors, A* to, int64_t line);
  void (*write)(const A* from, int64_t pitch, int64_t rows, int64_t cols, void* to, int64_t row_stride,
                int64_t col_stride);
};

// Whole vectors, the last one overlapping the one before, so that nothing beyond is touched.
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

}  // namespace dynfilters::cpu
