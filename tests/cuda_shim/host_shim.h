// The names of csrc/cuda/primitives.cuh for the CPU, on the device of machine.h.
#pragma once
#include <bit>
#include <cstring>
#include <tuple>
#include <type_traits>

#include "machine.h"
#include "memory.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
// Scalars, not structs: the compiler has no check called where a call's struct goes to memory.
enum class __half : uint16_t {};
enum class __nv_bfloat16 : uint16_t {};

namespace dynfilters::cuda {

using Stream = void*;
using shim::Where;

template <class T>
T* shared_memory() {
  return reinterpret_cast<T*>(shim::shared);
}

inline void sync_block(Where where = Where::current()) { shim::meet_block(where); }
inline void sync_warp(Where where = Where::current()) { shim::meet_warp("sync_warp", nullptr, 0, true, where); }

// The value that lane `from` brought; one's own if there is no such lane in a warp.
template <class A>
A shuffle(const char* what, A value, int from, Where where) {
  const shim::Slot* slots = shim::meet_warp(what, &value, sizeof(A), false, where);
  if (from >= 0 && from < shim::kWarp) memcpy(&value, slots[from].value, sizeof(A));
  return value;
}
template <class A>
A shuffle_xor(A value, int mask, Where where = Where::current()) {
  return shuffle("shuffle_xor", value, shim::lane_id() ^ mask, where);
}
template <class A>
A shuffle_up(A value, int lanes, Where where = Where::current()) {
  return shuffle("shuffle_up", value, shim::lane_id() - lanes, where);
}
template <class A>
A shuffle_down(A value, int lanes, Where where = Where::current()) {
  return shuffle("shuffle_down", value, shim::lane_id() + lanes, where);
}

// The whole word, even where the compiler sees that a part of it would do.
template <class W>
__forceinline__ W load_cached(const W* from) {
  shim::memory::touch(from, sizeof(W), false, true);
  return *from;
}
template <class W>
__forceinline__ void store_stream(W* to, W word) {
  shim::memory::touch(to, sizeof(W), true, true);
  *to = word;
}

template <int N>
void copy_async(void* to, const void* from, bool valid) {
  static_assert(N == 4 || N == 8 || N == 16);
  shim::memory::copy_async(to, valid ? from : nullptr, N);
}
inline void commit_copies() { shim::memory::commit_copies(); }
template <int N>
void wait_copies() {
  shim::memory::wait_copies(N);
}

inline double to_acc(double value) { return value; }
inline float to_acc(float value) { return value; }
inline float to_acc(__half value) { return float(std::bit_cast<_Float16>(value)); }
inline float to_acc(__nv_bfloat16 value) { return std::bit_cast<float>(uint32_t(value) << 16); }

inline __nv_bfloat16 to_bfloat16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if (value != value) return __nv_bfloat16(0x7fff);
  return __nv_bfloat16((bits + 0x7fff + (bits >> 16 & 1)) >> 16);  // to nearest, ties to even
}

template <class T, class A>
T from_acc(A value) {
  if constexpr (std::is_same_v<T, __half>)
    return std::bit_cast<__half>(_Float16(value));
  else if constexpr (std::is_same_v<T, __nv_bfloat16>)
    return to_bfloat16(value);
  else
    return value;
}
template <class T>
unsigned pair_from_acc(float first, float second) {
  return unsigned(from_acc<T>(first)) | unsigned(from_acc<T>(second)) << 16;
}

template <class... P, class... Args>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, Stream, const Args&... args) {
  struct Call {
    void (*kernel)(P...);
    std::tuple<P...> arguments;
  } call{kernel, {args...}};
  auto body = [](void* held) {
    auto& [kernel, arguments] = *static_cast<Call*>(held);
    std::apply(kernel, arguments);
  };
  shim::run(grid, block, shared_bytes, sizeof(call.arguments), body, &call);
}

}  // namespace dynfilters::cuda
