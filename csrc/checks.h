// Refuses what would make a kernel read or write outside its tensors. ops.filter2d in Python has
// refused it before, in better words; these are for callers of the bare torch.ops.dynfilters.
#pragma once
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <string>
#include <vector>

#include "activation.h"
#include "filter2d.h"

namespace dynfilters {

inline void check_shape(const char* name, const torch::stable::Tensor& tensor, const std::vector<int64_t>& expected,
                        const torch::stable::Tensor& x) {
  bool fits = tensor.dim() == int64_t(expected.size());
  int64_t axis = 0;
  for (int64_t size : expected) fits = fits && tensor.size(axis++) == size;
  STD_TORCH_CHECK(fits, name, ": its shape does not fit the other arguments");
  STD_TORCH_CHECK(tensor.scalar_type() == x.scalar_type(), name, ": expected the dtype of x");
  STD_TORCH_CHECK(tensor.device() == x.device(), name, ": expected the device of x");
}

inline void check_geometry(const std::vector<int64_t>& kernel_size, int64_t stride, int64_t dilation, int64_t scale,
                           const std::string& combine) {
  STD_TORCH_CHECK(kernel_size.size() == 2, "kernel_size: expected (kh, kw)");
  for (int64_t size : kernel_size)
    STD_TORCH_CHECK(size > 0 && size % 2 == 1, "kernel_size: expected odd and positive, got ", size);
  STD_TORCH_CHECK(stride > 0 && dilation > 0 && scale > 0, "stride, dilation and scale: expected at least 1, got ",
                  stride, ", ", dilation, " and ", scale);
  STD_TORCH_CHECK(stride == 1 || scale == 1, "stride and scale: expected at least one of them to be 1");
  STD_TORCH_CHECK(combine == "mul" || combine == "add", "combine: expected mul or add, got ", combine);
}

inline void check_operands(const torch::stable::Tensor& x, const std::optional<torch::stable::Tensor>& spatial,
                           const std::optional<torch::stable::Tensor>& channel, const std::vector<int64_t>& kernel_size,
                           int64_t stride, int64_t dilation, int64_t scale, const std::string& combine) {
  check_geometry(kernel_size, stride, dilation, scale, combine);
  STD_TORCH_CHECK(x.dim() == 4, "x: expected (B, C, H, W)");
  const int64_t B = x.size(0), C = x.size(1), H = x.size(2), W = x.size(3), K = kernel_size[0] * kernel_size[1];
  STD_TORCH_CHECK(C > 0 && H > 0 && W > 0, "x: expected (B, C, H, W), none empty but B");
  STD_TORCH_CHECK(spatial || channel, "spatial and channel: expected at least one tensor");
  if (spatial) {
    const int64_t G = spatial->dim() == 5 ? spatial->size(1) : 0;
    STD_TORCH_CHECK(G > 0 && C % G == 0, "spatial: expected (B, G, K, H_out, W_out) with G a divisor of C");
    check_shape("spatial", *spatial, {B, G, K, ((H - 1) / stride + 1) * scale, ((W - 1) / stride + 1) * scale}, x);
  }
  if (channel && channel->dim() == 4) check_shape("channel", *channel, {B, C, K, scale * scale}, x);
  else if (channel) check_shape("channel", *channel, {B, C, K}, x);
}

inline void check_gradient(const Filter2dParams& p, const torch::stable::Tensor& grad, const torch::stable::Tensor& x) {
  check_shape("grad", grad, {p.batch, p.channels, p.rows * p.scale, p.cols * p.scale}, x);
}

inline Activation checked_activation(const char* what, bool there, const std::string& name, double gain, double eps,
                                     int64_t taps) {
  Activation activation;
  STD_TORCH_CHECK(activation_of(name, gain, eps, activation), what,
                  "_activation: expected identity, sigmoid, softmax, tanh or filter_norm, got ", name);
  STD_TORCH_CHECK(!there || activation.kind != ActivationKind::kFilterNorm || taps > 1, what,
                  ": filter_norm expected at least 2 taps to normalize, got 1");
  return there ? activation : Activation{};
}

// Those of absent taps have no effect: identity.
inline Activations checked_activations(const Filter2dParams& p, const std::string& spatial, const std::string& channel,
                                       double spatial_gain, double channel_gain, double eps) {
  return {checked_activation("spatial", p.has_spatial(), spatial, spatial_gain, eps, p.taps()),
          checked_activation("channel", p.has_channel(), channel, channel_gain, eps, p.taps())};
}

inline void check_std(const Filter2dParams& p, const std::optional<torch::stable::Tensor>& channel_std,
                      const Activations& activations, const torch::stable::Tensor& x) {
  if (!channel_std) return;
  STD_TORCH_CHECK(activations.channel.kind == ActivationKind::kFilterNorm,
                  "channel_std: expected None without channel taps in filter_norm");
  std::vector<int64_t> sizes{p.channels, p.taps()};
  if (channel_std->dim() == 3) sizes.push_back(p.channel_phases);
  check_shape("channel_std", *channel_std, sizes, x);
}

inline void check_wanted(const Filter2dParams& p, bool has_std, bool want_spatial, bool want_channel, bool want_std) {
  STD_TORCH_CHECK(p.has_spatial() || !want_spatial, "want_spatial: expected false without spatial");
  STD_TORCH_CHECK(p.has_channel() || !want_channel, "want_channel: expected false without channel");
  STD_TORCH_CHECK(has_std || !want_std, "want_std: expected false without std");
}

}  // namespace dynfilters
