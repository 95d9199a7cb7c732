// One call of pool_project or ddf_generate, as every kernel sees it.
#pragma once
#include "filter2d.h"

namespace dynfilters {

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
  void* partial;  // of the accumulation type; as many as the device's partial_sums(params)
};

}  // namespace dynfilters
