// The boundary between torch and the kernels, once for all devices: checks the arguments of an op, allocates its
// results, and fills the plain structs that kernels take, through torch's stable ABI. The schemas are in Python, where
// wrong arguments are refused in better words; the checks here are for callers of the bare torch.ops.dynfilters, and
// refuse what would make a kernel read or write outside its tensors.
//
// A device is a class with
//   explicit Device(const Tensor& x);                   alive while the op runs
//   void forward(const Call&, const Tensor& y);
//   void backward(const Call&, const Tensor& grad, const Wanted&, Gradients&);
//   static int64_t partial_sums(const GenerateParams&);
//   void pool_project(const GenerateParams&, Storage, const GenerateOperands&);
//   void ddf_generate(const GenerateParams&, Storage, const GenerateOperands&);
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "activation.h"
#include "filter2d.h"
#include "generate.h"

namespace dynfilters {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Sizes = std::vector<int64_t>;

// A string argument as it arrives. As a std::string torch up to 2.13 would lose one in memory at every call (pytorch
// issue 191340).
using Text = StringHandle;

// Its content. The handle is freed.
inline std::string take(Text text) {
  size_t length = 0;
  const char* characters = nullptr;
  const bool known = !torch_string_length(text, &length) && !torch_string_c_str(text, &characters);
  std::string content(known ? characters : "", known ? length : 0);
  STD_TORCH_CHECK(!torch_delete_string(text) && known, "a string argument cannot be read");
  return content;
}

// ---- tensors ----

inline Storage storage_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Double: return Storage::kFloat64;
    case ScalarType::Float: return Storage::kFloat32;
    case ScalarType::BFloat16: return Storage::kBFloat16;
    case ScalarType::Half: return Storage::kFloat16;
    default: STD_TORCH_CHECK(false, "x: expected float64, float32, bfloat16 or float16, got another dtype");
  }
  return Storage::kFloat64;
}

// The dtype that sums are made in.
inline ScalarType accumulator_of(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline Sizes sizes_of(const Tensor& tensor) {
  Sizes found;
  for (int64_t i = 0; i < tensor.dim(); ++i) found.push_back(tensor.size(i));
  return found;
}

// Dense with the channels side by side, and not also dense in the order of the axes.
inline bool is_channels_last(const Tensor& x) {
  if (x.is_contiguous()) return false;
  const int64_t C = x.size(1), H = x.size(2), W = x.size(3);
  auto is = [&](int64_t axis, int64_t stride) { return x.size(axis) == 1 || x.stride(axis) == stride; };
  return is(1, 1) && is(3, C) && is(2, W * C) && is(0, H * W * C);
}

// A new tensor of x's dtype and memory format.
inline Tensor empty_as(const Tensor& x, const Sizes& sizes) {
  if (!is_channels_last(x)) return torch::stable::new_empty(x, sizes);
  // A channels_last tensor is a contiguous (B, H, W, C) one, seen with its axes moved.
  Tensor moved = torch::stable::new_empty(x, Sizes{sizes[0], sizes[2], sizes[3], sizes[1]});
  return torch::stable::transpose(torch::stable::transpose(moved, 1, 3), 2, 3);
}

inline OptionalTensor contiguous(const OptionalTensor& tensor) {
  return tensor ? OptionalTensor(torch::stable::contiguous(*tensor)) : std::nullopt;
}

inline const void* data(const OptionalTensor& tensor) { return tensor ? tensor->const_data_ptr() : nullptr; }

template <size_t N>
void copy_strides(const OptionalTensor& from, int64_t (&to)[N]) {
  for (int i = 0; from && i < int(from->dim()); ++i) to[i] = from->stride(i);
}

// ---- checks ----

inline void check_shape(const char* name, const Tensor& tensor, const Sizes& expected, const Tensor& x) {
  bool fits = tensor.dim() == int64_t(expected.size());
  for (size_t i = 0; fits && i < expected.size(); ++i) fits = tensor.size(int64_t(i)) == expected[i];
  STD_TORCH_CHECK(fits, name, ": its shape does not fit the other arguments");
  STD_TORCH_CHECK(tensor.scalar_type() == x.scalar_type(), name, ": expected the dtype of x");
  STD_TORCH_CHECK(tensor.device() == x.device(), name, ": expected the device of x");
}

inline void check_x(const Tensor& x) {
  STD_TORCH_CHECK(x.dim() == 4, "x: expected (B, C, H, W)");
  STD_TORCH_CHECK(x.size(1) > 0 && x.size(2) > 0 && x.size(3) > 0, "x: expected (B, C, H, W), none empty but B");
}

inline void check_geometry(const Sizes& kernel_size, int64_t stride, int64_t dilation, int64_t scale,
                           const std::string& combine) {
  STD_TORCH_CHECK(kernel_size.size() == 2, "kernel_size: expected (kh, kw)");
  for (int64_t size : kernel_size)
    STD_TORCH_CHECK(size > 0 && size % 2 == 1, "kernel_size: expected odd and positive, got ", size);
  STD_TORCH_CHECK(stride > 0 && dilation > 0 && scale > 0, "stride, dilation and scale: expected at least 1, got ",
                  stride, ", ", dilation, " and ", scale);
  STD_TORCH_CHECK(stride == 1 || scale == 1, "stride and scale: expected at least one of them to be 1");
  STD_TORCH_CHECK(combine == "mul" || combine == "add", "combine: expected mul or add, got ", combine);
}

inline void check_taps(const Tensor& x, const OptionalTensor& spatial, const OptionalTensor& channel, int64_t K,
                       int64_t stride, int64_t scale) {
  const int64_t B = x.size(0), C = x.size(1), H = x.size(2), W = x.size(3);
  STD_TORCH_CHECK(spatial || channel, "spatial and channel: expected at least one tensor");
  if (spatial) {
    const int64_t G = spatial->dim() == 5 ? spatial->size(1) : 0;
    STD_TORCH_CHECK(G > 0 && C % G == 0, "spatial: expected (B, G, K, H_out, W_out) with G a divisor of C");
    check_shape("spatial", *spatial, {B, G, K, ((H - 1) / stride + 1) * scale, ((W - 1) / stride + 1) * scale}, x);
  }
  if (channel && channel->dim() == 4)
    check_shape("channel", *channel, {B, C, K, scale * scale}, x);
  else if (channel)
    check_shape("channel", *channel, {B, C, K}, x);
}

// The activation of that name; of absent taps the identity.
inline Activation checked_activation(const char* taps, bool there, const std::string& name, double gain, double eps,
                                     int64_t count) {
  Activation activation;
  STD_TORCH_CHECK(activation_of(name, gain, eps, activation), taps,
                  "_activation: expected one of ", activation_names(), ", got ", name);
  STD_TORCH_CHECK(!there || activation.kind != ActivationKind::kFilterNorm || count > 1, taps,
                  ": filter_norm expected at least 2 taps to normalize, got 1");
  return there ? activation : Activation{};
}

inline void check_projection(const Tensor& x, const Tensor& weight, const OptionalTensor& bias) {
  check_x(x);
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

// ---- calls ----

// Checked arguments of a filter2d op. The strides of y and of the gradient of x are set once there are such tensors.
struct Call {
  const char* op;
  Tensor x;
  OptionalTensor spatial, channel;
  OptionalTensor channel_std;  // contiguous: (channels, taps), or (channels, taps, phases)
  Activations activations;
  Filter2dParams p{};

  Call(const char* op, const Tensor& x, const OptionalTensor& spatial, const OptionalTensor& channel,
       const Sizes& kernel_size, int64_t stride, int64_t dilation, int64_t scale, const std::string& combine)
      : op(op), x(x), spatial(spatial), channel(channel) {
    check_geometry(kernel_size, stride, dilation, scale, combine);
    check_x(x);
    check_taps(x, spatial, channel, kernel_size[0] * kernel_size[1], stride, scale);
    p.batch = x.size(0), p.channels = x.size(1), p.height = x.size(2), p.width = x.size(3);
    p.kh = kernel_size[0], p.kw = kernel_size[1], p.stride = stride, p.dilation = dilation, p.scale = scale;
    p.rows = (p.height - 1) / stride + 1, p.cols = (p.width - 1) / stride + 1;
    p.groups = spatial ? spatial->size(1) : 1;
    p.channel_phases = channel && channel->dim() == 4 ? channel->size(3) : 1;
    p.combine = !channel           ? Combine::kSpatialOnly
                : !spatial         ? Combine::kChannelOnly
                : combine == "mul" ? Combine::kMul
                                   : Combine::kAdd;
    copy_strides(x, p.xs), copy_strides(spatial, p.ss), copy_strides(channel, p.cs);
  }
  void activate(const OptionalTensor& std, const std::string& of_spatial, const std::string& of_channel,
                double spatial_gain, double channel_gain, double eps) {
    activations = {checked_activation("spatial", p.has_spatial(), of_spatial, spatial_gain, eps, p.taps()),
                   checked_activation("channel", p.has_channel(), of_channel, channel_gain, eps, p.taps())};
    if (!std) return;
    STD_TORCH_CHECK(activations.channel.kind == ActivationKind::kFilterNorm,
                    "channel_std: expected None without channel taps in filter_norm");
    Sizes sizes{p.channels, p.taps()};
    if (std->dim() == 3) sizes.push_back(p.channel_phases);
    check_shape("channel_std", *std, sizes, x);
    channel_std = contiguous(std);
  }
  Sizes y_sizes() const { return {p.batch, p.channels, p.rows * p.scale, p.cols * p.scale}; }
  int64_t std_phases() const { return channel_std && channel_std->dim() == 3 ? p.channel_phases : 1; }
};

// Which gradients are asked for.
struct Wanted {
  bool x, spatial, channel, std;
};

// Empty tensors where a gradient is not wanted.
struct Gradients {
  Tensor x, spatial, channel, std;
};

template <class Device>
Tensor run_forward(Call& call) {
  Device device(call.x);
  Tensor y = empty_as(call.x, call.y_sizes());
  copy_strides(y, call.p.ys);
  device.forward(call, y);
  return y;
}

template <class Device>
Gradients run_backward(Call& call, const Tensor& grad, const Wanted& want) {
  check_shape("grad", grad, call.y_sizes(), call.x);
  STD_TORCH_CHECK(call.spatial || !want.spatial, "want_spatial: expected false without spatial");
  STD_TORCH_CHECK(call.channel || !want.channel, "want_channel: expected false without channel");
  STD_TORCH_CHECK(call.channel_std || !want.std, "want_std: expected false without std");
  Device device(call.x);
  const auto empty = [&](bool wanted, const OptionalTensor& like) {
    return torch::stable::new_empty(call.x, wanted ? sizes_of(*like) : Sizes{0});
  };
  Gradients found{want.x ? empty_as(call.x, sizes_of(call.x)) : empty(false, {}), empty(want.spatial, call.spatial),
                  empty(want.channel, call.channel), empty(want.std, call.channel_std)};
  copy_strides(grad, call.p.ys);
  if (want.x) copy_strides(found.x, call.p.gs);
  device.backward(call, grad, want, found);
  return found;
}

// The arguments of a generation op, contiguous and kept while it runs, and its results.
struct Generation {
  Tensor x, weight;
  OptionalTensor bias;
  Storage storage;
  GenerateParams p{};
  GenerateOperands o{};
  Tensor logits, mean, partial;

  Generation(const Tensor& given, const Tensor& matrix, const OptionalTensor& added,
             int64_t (*partial_sums)(const GenerateParams&))
      : x(is_channels_last(given) ? given : torch::stable::contiguous(given)),
        weight(torch::stable::contiguous(matrix)),
        bias(contiguous(added)),
        storage(storage_of(x)) {
    p.batch = x.size(0), p.channels = x.size(1), p.positions = x.size(2) * x.size(3), p.outputs = weight.size(0);
    p.pixels = is_channels_last(x);
    logits = empty_as(x, {p.batch, p.outputs, x.size(2), x.size(3)});
    mean = torch::stable::new_empty(x, Sizes{p.batch, p.channels});
    partial = torch::stable::new_empty(x, Sizes{partial_sums(p)}, accumulator_of(x));
    o.x = x.const_data_ptr(), o.weight = weight.const_data_ptr(), o.bias = data(bias);
    o.logits = logits.mutable_data_ptr(), o.mean = mean.mutable_data_ptr(), o.partial = partial.mutable_data_ptr();
  }
};

// ---- ops ----

template <class Device>
struct Ops {
  static Tensor filter2d(Tensor x, OptionalTensor spatial, OptionalTensor channel, Sizes kernel_size, int64_t stride,
                         int64_t dilation, int64_t scale, Text combine) {
    Call call("filter2d", x, spatial, channel, kernel_size, stride, dilation, scale, take(combine));
    return run_forward<Device>(call);
  }

  static std::tuple<Tensor, Tensor, Tensor> filter2d_backward(Tensor grad, Tensor x, OptionalTensor spatial,
                                                              OptionalTensor channel, Sizes kernel_size, int64_t stride,
                                                              int64_t dilation, int64_t scale, Text combine,
                                                              bool want_x, bool want_spatial, bool want_channel) {
    Call call("filter2d_backward", x, spatial, channel, kernel_size, stride, dilation, scale, take(combine));
    const Gradients g = run_backward<Device>(call, grad, {want_x, want_spatial, want_channel, false});
    return {g.x, g.spatial, g.channel};
  }

  static Tensor filter2d_activated(Tensor x, OptionalTensor spatial, OptionalTensor channel, OptionalTensor channel_std,
                                   Sizes kernel_size, int64_t stride, int64_t dilation, int64_t scale, Text combine,
                                   Text spatial_activation, Text channel_activation, double spatial_gain,
                                   double channel_gain, double eps) {
    Call call("filter2d_activated", x, spatial, channel, kernel_size, stride, dilation, scale, take(combine));
    call.activate(channel_std, take(spatial_activation), take(channel_activation), spatial_gain, channel_gain, eps);
    return run_forward<Device>(call);
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor> filter2d_activated_backward(
      Tensor grad, Tensor x, OptionalTensor spatial, OptionalTensor channel, OptionalTensor channel_std,
      Sizes kernel_size, int64_t stride, int64_t dilation, int64_t scale, Text combine, Text spatial_activation,
      Text channel_activation, double spatial_gain, double channel_gain, double eps, bool want_x, bool want_spatial,
      bool want_channel, bool want_std) {
    Call call("filter2d_activated_backward", x, spatial, channel, kernel_size, stride, dilation, scale, take(combine));
    call.activate(channel_std, take(spatial_activation), take(channel_activation), spatial_gain, channel_gain, eps);
    const Gradients g = run_backward<Device>(call, grad, {want_x, want_spatial, want_channel, want_std});
    return {g.x, g.spatial, g.channel, g.std};
  }

  static std::tuple<Tensor, Tensor> pool_project(Tensor x, Tensor weight, OptionalTensor bias) {
    check_projection(x, weight, bias);
    Device device(x);
    const Generation call(x, weight, bias, Device::partial_sums);
    device.pool_project(call.p, call.storage, call.o);
    return {call.logits, call.mean};
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor> ddf_generate(Tensor x, Tensor weight, OptionalTensor bias,
                                                                 Tensor squeeze_weight, OptionalTensor squeeze_bias,
                                                                 Tensor expand_weight, OptionalTensor expand_bias) {
    check_projection(x, weight, bias);
    check_layers(x, squeeze_weight, squeeze_bias, expand_weight, expand_bias);
    Device device(x);
    Generation call(x, weight, bias, Device::partial_sums);
    squeeze_weight = torch::stable::contiguous(squeeze_weight), squeeze_bias = contiguous(squeeze_bias);
    expand_weight = torch::stable::contiguous(expand_weight), expand_bias = contiguous(expand_bias);
    call.p.squeezed = squeeze_weight.size(0), call.p.expanded = expand_weight.size(0);
    const int64_t B = call.p.batch, C = call.p.channels;
    Tensor hidden = torch::stable::new_empty(x, Sizes{B, call.p.squeezed});
    Tensor taps = torch::stable::new_empty(x, Sizes{B, C, call.p.expanded / C});
    call.o.squeeze_weight = squeeze_weight.const_data_ptr(), call.o.squeeze_bias = data(squeeze_bias);
    call.o.expand_weight = expand_weight.const_data_ptr(), call.o.expand_bias = data(expand_bias);
    call.o.hidden = hidden.mutable_data_ptr(), call.o.taps = taps.mutable_data_ptr();
    device.ddf_generate(call.p, call.storage, call.o);
    return {call.logits, taps, call.mean, hidden};
  }

  template <class Library>
  static void register_all(Library& library) {
    library.impl("filter2d", TORCH_BOX(&Ops::filter2d));
    library.impl("filter2d_backward", TORCH_BOX(&Ops::filter2d_backward));
    library.impl("filter2d_activated", TORCH_BOX(&Ops::filter2d_activated));
    library.impl("filter2d_activated_backward", TORCH_BOX(&Ops::filter2d_activated_backward));
    library.impl("pool_project", TORCH_BOX(&Ops::pool_project));
    library.impl("ddf_generate", TORCH_BOX(&Ops::ddf_generate));
  }
};

}  // namespace dynfilters
