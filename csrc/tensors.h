// From the tensors of a call to the plain structs that kernels take, through torch's stable ABI.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <string>
#include <vector>

#include "checks.h"
#include "filter2d.h"

namespace dynfilters {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Sizes = std::vector<int64_t>;

// A string argument as it comes. As a std::string torch up to 2.13 would lose one in memory at every
// call (pytorch issue 191340).
using Text = StringHandle;

// Its content; it is not there any more.
inline std::string take(Text text) {
  size_t length = 0;
  const char* characters = nullptr;
  const bool known = !torch_string_length(text, &length) && !torch_string_c_str(text, &characters);
  std::string content(known ? characters : "", known ? length : 0);
  STD_TORCH_CHECK(!torch_delete_string(text) && known, "a string argument cannot be read");
  return content;
}

// Storage is a device's own enumeration of the element types.
template <class Storage>
Storage storage_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Double: return Storage::kFloat64;
    case ScalarType::Float: return Storage::kFloat32;
    case ScalarType::BFloat16: return Storage::kBFloat16;
    case ScalarType::Half: return Storage::kFloat16;
    default: STD_TORCH_CHECK(false, "x: expected float64, float32, bfloat16 or float16, got another dtype");
  }
  return Storage::kFloat64;
}

inline Sizes sizes_of(const Tensor& tensor) {
  Sizes found;
  for (int64_t i = 0; i < tensor.dim(); ++i) found.push_back(tensor.size(i));
  return found;
}

// Dense with the channels side by side, and not also dense the other way.
inline bool is_channels_last(const Tensor& x) {
  if (x.is_contiguous()) return false;
  const int64_t C = x.size(1), H = x.size(2), W = x.size(3);
  auto is = [&](int64_t axis, int64_t stride) { return x.size(axis) == 1 || x.stride(axis) == stride; };
  return is(1, 1) && is(3, C) && is(2, W * C) && is(0, H * W * C);
}

inline Tensor empty_as(const Tensor& x, const Sizes& sizes, bool channels_last) {
  if (!channels_last) return torch::stable::new_empty(x, sizes);
  // A channels_last tensor is a contiguous (B, H, W, C) one, seen with its axes moved.
  Tensor moved = torch::stable::new_empty(x, Sizes{sizes[0], sizes[2], sizes[3], sizes[1]});
  return torch::stable::transpose(torch::stable::transpose(moved, 1, 3), 2, 3);
}

// All of the problem but the strides of y.
inline Filter2dParams params_of(const Tensor& x, const OptionalTensor& spatial, const OptionalTensor& channel,
                                const Sizes& kernel_size, int64_t stride, int64_t dilation, int64_t scale,
                                const std::string& combine) {
  check_operands(x, spatial, channel, kernel_size, stride, dilation, scale, combine);
  Filter2dParams p{};
  p.batch = x.size(0), p.channels = x.size(1), p.height = x.size(2), p.width = x.size(3);
  p.kh = kernel_size[0], p.kw = kernel_size[1], p.stride = stride, p.dilation = dilation, p.scale = scale;
  p.rows = (p.height - 1) / stride + 1, p.cols = (p.width - 1) / stride + 1;
  p.groups = spatial ? spatial->size(1) : 1;
  p.channel_phases = channel && channel->dim() == 4 ? channel->size(3) : 1;
  p.combine = !channel   ? Combine::kSpatialOnly
              : !spatial ? Combine::kChannelOnly
                         : combine == "mul" ? Combine::kMul : Combine::kAdd;
  for (int i = 0; i < 4; ++i) p.xs[i] = x.stride(i);
  for (int i = 0; spatial && i < 5; ++i) p.ss[i] = spatial->stride(i);
  for (int i = 0; channel && i < int(channel->dim()); ++i) p.cs[i] = channel->stride(i);
  return p;
}

inline void set_output_strides(Filter2dParams& p, const Tensor& y) {
  for (int i = 0; i < 4; ++i) p.ys[i] = y.stride(i);
}

inline const void* data(const OptionalTensor& tensor) { return tensor ? tensor->const_data_ptr() : nullptr; }

}  // namespace dynfilters
