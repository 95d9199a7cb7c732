// Everything in the CUDA kernels that is not plain C++, each a small function. The kernels
// (*.cuh) include this file and no CUDA header; with DYNFILTERS_HOST_SHIM the same names come from
// host_shim.h, and the kernels run on the CPU.
//
// What both sides provide (all blocks here are one-dimensional, of a multiple of 32 threads):
//   __global__ __device__ __host__ __forceinline__ __launch_bounds__, dim3, threadIdx, blockIdx,
//   blockDim, gridDim, uint4, uint2, __half, __nv_bfloat16
//   T* shared_memory<T>()             the block's dynamic shared memory, 16-byte aligned
//   sync_block(), sync_warp()         barriers that every thread of the block, of the warp reaches
//   shuffle_xor(value, mask)          value of lane (own ^ mask); every lane of the warp takes part
//   shuffle_up(value, n)              value of lane (own - n), or one's own where there is none
//   shuffle_down(value, n)            value of lane (own + n), or one's own where there is none
//   load_cached(const W*)             a word (uint4, uint2, unsigned, unsigned short, double) of
//                                     memory that no one writes during the kernel
//   store_stream(W*, W)               a word that is not read again soon
//   copy_async<N>(to, from, valid)    starts a copy of N = 4, 8 or 16 aligned bytes from global to
//                                     shared memory; zeros, and no read of `from`, if not valid
//   commit_copies()                   ends a group of the copies that this thread started
//   wait_copies<N>()                  until all but the N latest groups of this thread have landed;
//                                     other threads see the bytes after a sync_block() behind it
//   to_acc(T) -> A, from_acc<T>(A)       between storage and accumulation type, to nearest even
//   pair_from_acc<T>(float, float)      two at once, the first one in the lower half of an unsigned
//   Stream, launch(kernel, grid, block, shared_bytes, stream, args...)
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>

#ifdef DYNFILTERS_HOST_SHIM
#include "host_shim.h"
#else
#ifndef USE_CUDA
#define USE_CUDA  // torch's stable headers declare their CUDA part only with it
#endif
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <torch/csrc/stable/macros.h>

namespace dynfilters::cuda {

using Stream = cudaStream_t;

template <class T>
__device__ __forceinline__ T* shared_memory() {
  extern __shared__ uint4 dynamic_shared_memory[];
  return reinterpret_cast<T*>(dynamic_shared_memory);
}

__device__ __forceinline__ void sync_block() { __syncthreads(); }
__device__ __forceinline__ void sync_warp() { __syncwarp(); }

template <class A>
__device__ __forceinline__ A shuffle_xor(A value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}
template <class A>
__device__ __forceinline__ A shuffle_up(A value, int lanes) {
  return __shfl_up_sync(0xffffffffu, value, lanes);
}
template <class A>
__device__ __forceinline__ A shuffle_down(A value, int lanes) {
  return __shfl_down_sync(0xffffffffu, value, lanes);
}

template <class W>
__device__ __forceinline__ W load_cached(const W* from) {
  return __ldg(from);
}
template <class W>
__device__ __forceinline__ void store_stream(W* to, W word) {
  __stcs(to, word);
}

template <int N>
__device__ __forceinline__ void copy_async(void* to, const void* from, bool valid) {
  const unsigned target = static_cast<unsigned>(__cvta_generic_to_shared(to));
  const int bytes = valid ? N : 0;
  if constexpr (N == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(from), "r"(bytes) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(target), "l"(from), "n"(N), "r"(bytes)
                 : "memory");
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

__device__ __forceinline__ double to_acc(double value) { return value; }
__device__ __forceinline__ float to_acc(float value) { return value; }
__device__ __forceinline__ float to_acc(__half value) { return __half2float(value); }
__device__ __forceinline__ float to_acc(__nv_bfloat16 value) { return __bfloat162float(value); }

template <class T, class A>
__device__ __forceinline__ T from_acc(A value) {
  if constexpr (sizeof(T) != 2)
    return value;
  else if constexpr (std::is_same_v<T, __half>)
    return __float2half_rn(value);
  else
    return __float2bfloat16_rn(value);
}
template <class T>
__device__ __forceinline__ unsigned pair_from_acc(float first, float second) {
  unsigned word;
  if constexpr (std::is_same_v<T, __half>) {
    const __half2 pair = __floats2half2_rn(first, second);
    __builtin_memcpy(&word, &pair, 4);
  } else {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
    __builtin_memcpy(&word, &pair, 4);
  }
  return word;
}

template <class... P, class... Args>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, Stream stream, const Args&... args) {
  if (shared_bytes > 48 * 1024)  // more than that has to be asked for
    STD_CUDA_CHECK(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                        cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes)));
  kernel<<<grid, block, shared_bytes, stream>>>(args...);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace dynfilters::cuda
#endif

// The same on both sides.
namespace dynfilters::cuda {

template <class T>
struct AccumulatorOf {
  using type = float;
};
template <>
struct AccumulatorOf<double> {
  using type = double;
};
template <class T>
using Accumulator = typename AccumulatorOf<T>::type;

}  // namespace dynfilters::cuda
