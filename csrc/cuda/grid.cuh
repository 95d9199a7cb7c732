// Loops of a grid over elements, however many there are.
#pragma once
#include "primitives.cuh"

namespace dynfilters::cuda {

constexpr int kGenericThreads = 256;

__device__ __forceinline__ int64_t first_element() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ __forceinline__ int64_t element_step() { return int64_t(gridDim.x) * blockDim.x; }

// Blocks for n items, which loop where there are more.
inline dim3 grid_of(int64_t items) {
  constexpr int64_t most = int64_t(1) << 30;
  return dim3(unsigned(items < most ? items : most));
}
inline int64_t blocks_for(int64_t items, int threads = kGenericThreads) { return (items + threads - 1) / threads; }

}  // namespace dynfilters::cuda
