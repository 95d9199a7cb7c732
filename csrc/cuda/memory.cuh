// Runs of N elements between memory and registers of the accumulation type, as one access.
#pragma once
#include "primitives.cuh"

namespace dynfilters::cuda {

template <int Bytes>
struct WordOf;
template <>
struct WordOf<2> {
  using type = unsigned short;
};
template <>
struct WordOf<4> {
  using type = unsigned;
};
template <>
struct WordOf<8> {
  using type = uint2;
};
template <>
struct WordOf<16> {
  using type = uint4;
};
template <int Bytes>
using Word = typename WordOf<Bytes>::type;

template <int N, class T>
__device__ __forceinline__ void word_to_acc(const Word<N* int(sizeof(T))>& word, Accumulator<T> (&to)[N]) {
  T values[N];
  __builtin_memcpy(values, &word, sizeof(values));
#pragma unroll
  for (int i = 0; i < N; ++i) to[i] = to_acc(values[i]);
}

// From global memory that nobody writes during the kernel; `from` aligned to the whole run.
template <int N, class T>
__device__ __forceinline__ void read(const T* from, Accumulator<T> (&to)[N]) {
  word_to_acc<N, T>(load_cached(reinterpret_cast<const Word<N* int(sizeof(T))>*>(from)), to);
}

template <class T>
__device__ __forceinline__ Accumulator<T> read(const T* from) {
  Accumulator<T> value[1];
  read(from, value);
  return value[0];
}

// From shared memory.
template <int N, class T>
__device__ __forceinline__ void read_shared(const T* from, Accumulator<T> (&to)[N]) {
  word_to_acc<N, T>(*reinterpret_cast<const Word<N* int(sizeof(T))>*>(from), to);
}

// To global memory, aligned to the whole run, which the kernel does not read.
template <int N, class T>
__device__ __forceinline__ void write(T* to, const Accumulator<T> (&values)[N]) {
  using W = Word<N * int(sizeof(T))>;
  W word;
  if constexpr (sizeof(T) == 2 && N % 2 == 0) {
    unsigned pairs[N / 2];
#pragma unroll
    for (int i = 0; i < N / 2; ++i) pairs[i] = pair_from_acc<T>(values[2 * i], values[2 * i + 1]);
    __builtin_memcpy(&word, pairs, sizeof(word));
  } else {
    T narrowed[N];
#pragma unroll
    for (int i = 0; i < N; ++i) narrowed[i] = from_acc<T>(values[i]);
    __builtin_memcpy(&word, narrowed, sizeof(word));
  }
  store_stream(reinterpret_cast<W*>(to), word);
}

}  // namespace dynfilters::cuda
