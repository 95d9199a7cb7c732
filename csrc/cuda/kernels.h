// The CUDA kernels of filter2d, for any storage type and any strides. Each call only enqueues
// work on `stream` (a cudaStream_t) of the current device.
#pragma once
#include <cstddef>
#include <cstdint>

#include "../filter2d.h"

namespace dynfilters::cuda {

enum class Storage : int32_t { kFloat64, kFloat32, kBFloat16, kFloat16 };

// A gradient whose pointer is null is not wanted.
struct Operands {
  const void *x, *spatial, *channel;
  const void* grad;                   // of y, with the strides Problem::ys
  void* y;                            // forward alone
  void* grad_x;                       // with the strides Problem::gs
  void *grad_spatial, *grad_channel;  // contiguous
  void* workspace;                    // workspace_elements(…) of the accumulation type, for backward alone
};

void forward(const Problem& p, Storage storage, const Operands& o, void* stream);
void backward(const Problem& p, Storage storage, const Operands& o, void* stream);

// Of float64 for kFloat64, else of float32. Asks for all of `o` but the workspace.
size_t workspace_elements(const Problem& p, Storage storage, const Operands& o);

}  // namespace dynfilters::cuda
