// The CUDA kernels that generate taps: pool_project and ddf_generate. Each call only enqueues work
// on `stream` (a cudaStream_t) of the current device.
#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels.h"

namespace dynfilters::cuda {

struct GenerateParams {
  int64_t batch, channels, positions;  // x: (batch, channels, positions)
  int64_t outputs;                     // logits: (batch, outputs, positions)
  int64_t squeezed, expanded;          // hidden: (batch, squeezed), taps: (batch, expanded)
  int64_t pixels;                      // 1: x and logits lie as (batch, positions, channels or outputs)
};

// All dense: x and logits as GenerateParams::pixels says, the others contiguous. Any bias may be null.
struct GenerateOperands {
  const void *x, *weight, *bias;
  const void *squeeze_weight, *squeeze_bias, *expand_weight, *expand_bias;
  void *logits, *mean, *hidden, *taps;
  void* partial;  // partial_sums(…) of the accumulation type
};

void pool_project(const GenerateParams& p, Storage storage, const GenerateOperands& o, void* stream);
void ddf_generate(const GenerateParams& p, Storage storage, const GenerateOperands& o, void* stream);

size_t partial_sums(const GenerateParams& p);
// Whether shared memory holds a sample's mean and hidden units.
bool fits_generate(const GenerateParams& p, Storage storage);

}  // namespace dynfilters::cuda
