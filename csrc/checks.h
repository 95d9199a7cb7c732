// Refuses what would make a kernel read or write outside its tensors. ops.filter2d in Python has
// refused it before, in better words; these are for callers of the bare torch.ops.dynfilters.
#pragma once
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <string>
#include <vector>

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

inline void check_gradient(const Problem& p, const torch::stable::Tensor& grad, const torch::stable::Tensor& x) {
  check_shape("grad", grad, {p.batch, p.channels, p.rows * p.scale, p.cols * p.scale}, x);
}

}  // namespace dynfilters
