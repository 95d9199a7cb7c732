// How channels_last calls are cut: a thread owns four channels, and walks over pixels.
#pragma once
#include "reduce.cuh"

namespace dynfilters::cuda {

constexpr int kVector = 4, kPixelThreads = 256;

// Thread t of a block has channels 4·(t % vectors) and on, and every slots-th pixel of the tile.
struct Pixels {
  int vectors, slots;
  int length, tiles;  // pixels in a tile, tiles in a sample
  int parts;          // blocks that share the channels of a pixel
  int threads() const { return vectors * slots; }
};

// The channels lie side by side, in whole aligned vectors.
template <class T>
bool has_vectors(const void* pointer, const int64_t* strides) {
  return reinterpret_cast<uintptr_t>(pointer) % (kVector * sizeof(T)) == 0 && strides[1] == 1 &&
         strides[0] % kVector == 0 && strides[2] % kVector == 0 && strides[3] % kVector == 0;
}

// The activated taps of the thread's channels, [tap][channel].
template <int Taps, class T>
__device__ __forceinline__ void read_vector_taps(const Filter2dParams& p, const RawTaps<T>& raw, int64_t b, int64_t c,
                                                 float (&to)[Taps][kVector]) {
  const T* channel = raw.channel + b * p.cs[0] + c * p.cs[1];
#pragma unroll
  for (int k = 0; k < Taps; ++k)
#pragma unroll
    for (int v = 0; v < kVector; ++v) to[k][v] = read(channel + v * p.cs[1] + k * p.cs[2]);
  if (!raw.changes_channel()) return;
#pragma unroll
  for (int v = 0; v < kVector; ++v)
    raw.template activate_channel<Taps>(c + v, Taps, 0, [&](int k) -> float& { return to[k][v]; });
}

}  // namespace dynfilters::cuda
