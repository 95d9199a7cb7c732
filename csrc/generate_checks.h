// What checks.h is to filter2d, for the ops that generate taps.
#pragma once
#include "tensors.h"

namespace dynfilters {

inline void check_projection(const Tensor& x, const Tensor& weight, const OptionalTensor& bias) {
  STD_TORCH_CHECK(x.dim() == 4, "x: expected (B, C, H, W)");
  STD_TORCH_CHECK(x.size(1) > 0 && x.size(2) > 0 && x.size(3) > 0, "x: expected (B, C, H, W), none empty but B");
  STD_TORCH_CHECK(weight.dim() == 2 && weight.size(0) > 0, "weight: expected (O, C)");
  check_shape("weight", weight, {weight.size(0), x.size(1)}, x);
  if (bias) check_shape("bias", *bias, {weight.size(0)}, x);
}

inline void check_layers(const Tensor& x, const Tensor& squeeze_weight, const OptionalTensor& squeeze_bias,
                         const Tensor& expand_weight, const OptionalTensor& expand_bias) {
  STD_TORCH_CHECK(squeeze_weight.dim() == 2 && squeeze_weight.size(0) > 0, "squeeze_weight: expected (S, C)");
  STD_TORCH_CHECK(expand_weight.dim() == 2 && expand_weight.size(0) > 0 && expand_weight.size(0) % x.size(1) == 0,
                  "expand_weight: expected (C·K, S)");
  const int64_t S = squeeze_weight.size(0), E = expand_weight.size(0);
  check_shape("squeeze_weight", squeeze_weight, {S, x.size(1)}, x);
  if (squeeze_bias) check_shape("squeeze_bias", *squeeze_bias, {S}, x);
  check_shape("expand_weight", expand_weight, {E, S}, x);
  if (expand_bias) check_shape("expand_bias", *expand_bias, {E}, x);
}

}  // namespace dynfilters
