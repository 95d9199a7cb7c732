// The CUDA kernels of filter2d and filter2d_activated, for any storage type and any strides. Each
// call only enqueues work on `stream` (a cudaStream_t) of the current device.
#pragma once
#include <cstddef>
#include <cstdint>

#include "../activation.h"
#include "../filter2d.h"

namespace dynfilters::cuda {

// A gradient whose pointer is null is not wanted.
struct Operands {
  const void *x, *spatial, *channel;
  const void* grad;                   // of y, with the strides Filter2dParams::ys
  void* y;                            // forward alone
  void* grad_x;                       // with the strides Filter2dParams::gs
  void *grad_spatial, *grad_channel;  // contiguous
  void* workspace;                    // forward_workspace(…) or backward_workspace(…), 16-byte aligned

  // For absent taps the identity.
  Activation spatial_activation, channel_activation;
  const void* channel_std;  // of the activated channel taps: (channels, taps, std_phases), contiguous; null for ones
  int64_t std_phases;       // phases or 1
  void* grad_std;           // like channel_std
  // In the workspace, where the kernels of the call need them; see Statistics.
  const void *spatial_statistics, *channel_statistics;

  bool changes_spatial() const { return !spatial_activation.is_identity(); }
  bool changes_channel() const { return !channel_activation.is_identity() || channel_std; }
};

void forward(const Filter2dParams& p, Storage storage, const Operands& o, void* stream);
void backward(const Filter2dParams& p, Storage storage, const Operands& o, void* stream);

// Elements, of float64 for kFloat64, else of float32. Asks for all of `o` but the workspace.
size_t forward_workspace(const Filter2dParams& p, Storage storage, const Operands& o);
size_t backward_workspace(const Filter2dParams& p, Storage storage, const Operands& o);

}  // namespace dynfilters::cuda
