// Registers the CUDA kernels of dynfilters::filter2d, filter2d_activated and their gradients. The
// schemas, and all checks of arguments that a user could get wrong, are in Python.
#include "primitives.cuh"
// Behind it, for USE_CUDA.
#include <stdexcept>
#include <string>
#include <tuple>

#include "../tensors.h"
#include "kernels.h"
#include "on_device.h"

namespace {

using namespace dynfilters;
namespace kernels = dynfilters::cuda;  // CUDA has a namespace cuda of its own

std::string describe(const Filter2dParams& p) {
  auto list = [](std::initializer_list<int64_t> sizes) {
    std::string text;
    for (int64_t size : sizes) text += (text.empty() ? "(" : ", ") + std::to_string(size);
    return text + ")";
  };
  return "x " + list({p.batch, p.channels, p.height, p.width}) + ", groups " + std::to_string(p.groups) +
         ", kernel_size " + list({p.kh, p.kw}) + ", stride " + std::to_string(p.stride) + ", dilation " +
         std::to_string(p.dilation) + ", scale " + std::to_string(p.scale);
}

// What CUDA reports becomes an exception that says which call it was.
template <class F>
void run(const char* what, const Filter2dParams& p, const F& f) {
  try {
    f();
  } catch (const std::exception& error) {
    throw std::runtime_error(std::string(what) + " failed on CUDA for " + describe(p) + ": " + error.what());
  }
}

// What filter2d_activated takes more than filter2d.
struct Activated {
  Activations activations;
  OptionalTensor channel_std;  // contiguous
};

Activated activated_of(const Filter2dParams& p, const Tensor& x, const OptionalTensor& channel_std,
                       const Activations& activations) {
  check_std(p, channel_std, activations, x);
  return {activations, channel_std ? OptionalTensor(torch::stable::contiguous(*channel_std)) : std::nullopt};
}

kernels::Operands operands_of(const Tensor& x, const OptionalTensor& spatial, const OptionalTensor& channel,
                              const Activated& how) {
  kernels::Operands o{};
  o.x = x.const_data_ptr(), o.spatial = data(spatial), o.channel = data(channel);
  o.spatial_activation = how.activations.spatial, o.channel_activation = how.activations.channel;
  o.channel_std = data(how.channel_std);
  o.std_phases = how.channel_std && how.channel_std->dim() == 3 ? how.channel_std->size(2) : 1;
  return o;
}

// Of the accumulation type; freed when this goes, for later work of the same stream.
OptionalTensor workspace_of(const Tensor& x, size_t elements) {
  if (!elements) return std::nullopt;
  const auto type = x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  return torch::stable::new_empty(x, Sizes{int64_t(elements)}, type);
}

Tensor run_forward(const char* what, Filter2dParams p, const Tensor& x, const OptionalTensor& spatial,
                   const OptionalTensor& channel, const Activated& how) {
  const OnDeviceOf device(x);
  const auto storage = storage_of<kernels::Storage>(x);
  Tensor y = empty_as(x, {p.batch, p.channels, p.rows * p.scale, p.cols * p.scale}, is_channels_last(x));
  set_output_strides(p, y);
  kernels::Operands o = operands_of(x, spatial, channel, how);
  o.y = y.mutable_data_ptr();
  OptionalTensor workspace = workspace_of(x, kernels::forward_workspace(p, storage, o));
  o.workspace = workspace ? workspace->mutable_data_ptr() : nullptr;
  run(what, p, [&] { kernels::forward(p, storage, o, device.stream()); });
  return y;
}

// Which gradients are wanted.
struct Wanted {
  bool x, spatial, channel, std;
};
struct Gradients {
  Tensor x, spatial, channel, std;
};

Gradients run_backward(const char* what, Filter2dParams p, const Tensor& grad, const Tensor& x,
                       const OptionalTensor& spatial, const OptionalTensor& channel, const Activated& how,
                       const Wanted& want) {
  check_gradient(p, grad, x);
  check_wanted(p, how.channel_std.has_value(), want.spatial, want.channel, want.std);
  set_output_strides(p, grad);
  const OnDeviceOf device(x);
  const auto storage = storage_of<kernels::Storage>(x);
  const auto empty = [&](bool wanted, const OptionalTensor& like) {
    return torch::stable::new_empty(x, wanted ? sizes_of(*like) : Sizes{0});
  };
  Gradients found{want.x ? empty_as(x, sizes_of(x), is_channels_last(x)) : torch::stable::new_empty(x, Sizes{0}),
                  empty(want.spatial, spatial), empty(want.channel, channel), empty(want.std, how.channel_std)};
  kernels::Operands o = operands_of(x, spatial, channel, how);
  o.grad = grad.const_data_ptr();
  o.grad_x = want.x ? found.x.mutable_data_ptr() : nullptr;
  for (int i = 0; want.x && i < 4; ++i) p.gs[i] = found.x.stride(i);
  o.grad_spatial = want.spatial ? found.spatial.mutable_data_ptr() : nullptr;
  o.grad_channel = want.channel ? found.channel.mutable_data_ptr() : nullptr;
  o.grad_std = want.std ? found.std.mutable_data_ptr() : nullptr;
  OptionalTensor workspace = workspace_of(x, kernels::backward_workspace(p, storage, o));
  o.workspace = workspace ? workspace->mutable_data_ptr() : nullptr;
  run(what, p, [&] { kernels::backward(p, storage, o, device.stream()); });
  return found;
}

Tensor forward_cuda(Tensor x, OptionalTensor spatial, OptionalTensor channel, Sizes kernel_size, int64_t stride,
                    int64_t dilation, int64_t scale, Text combine) {
  const Filter2dParams p = params_of(x, spatial, channel, kernel_size, stride, dilation, scale, take(combine));
  return run_forward("filter2d", p, x, spatial, channel, {});
}

std::tuple<Tensor, Tensor, Tensor> backward_cuda(Tensor grad, Tensor x, OptionalTensor spatial, OptionalTensor channel,
                                                 Sizes kernel_size, int64_t stride, int64_t dilation, int64_t scale,
                                                 Text combine, bool want_x, bool want_spatial,
                                                 bool want_channel) {
  const Filter2dParams p = params_of(x, spatial, channel, kernel_size, stride, dilation, scale, take(combine));
  const Gradients g = run_backward("filter2d_backward", p, grad, x, spatial, channel, {},
                                   {want_x, want_spatial, want_channel, false});
  return {g.x, g.spatial, g.channel};
}

Tensor activated_forward_cuda(Tensor x, OptionalTensor spatial, OptionalTensor channel, OptionalTensor channel_std,
                              Sizes kernel_size, int64_t stride, int64_t dilation, int64_t scale, Text combine,
                              Text spatial_activation, Text channel_activation, double spatial_gain,
                              double channel_gain, double eps) {
  const Filter2dParams p = params_of(x, spatial, channel, kernel_size, stride, dilation, scale, take(combine));
  const Activations activations =
      checked_activations(p, take(spatial_activation), take(channel_activation), spatial_gain, channel_gain, eps);
  return run_forward("filter2d_activated", p, x, spatial, channel, activated_of(p, x, channel_std, activations));
}

std::tuple<Tensor, Tensor, Tensor, Tensor> activated_backward_cuda(
    Tensor grad, Tensor x, OptionalTensor spatial, OptionalTensor channel, OptionalTensor channel_std,
    Sizes kernel_size, int64_t stride, int64_t dilation, int64_t scale, Text combine,
    Text spatial_activation, Text channel_activation, double spatial_gain, double channel_gain,
    double eps, bool want_x, bool want_spatial, bool want_channel, bool want_std) {
  const Filter2dParams p = params_of(x, spatial, channel, kernel_size, stride, dilation, scale, take(combine));
  const Activations activations =
      checked_activations(p, take(spatial_activation), take(channel_activation), spatial_gain, channel_gain, eps);
  const Gradients g =
      run_backward("filter2d_activated_backward", p, grad, x, spatial, channel,
                   activated_of(p, x, channel_std, activations), {want_x, want_spatial, want_channel, want_std});
  return {g.x, g.spatial, g.channel, g.std};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dynfilters, CUDA, m) {
  m.impl("filter2d", TORCH_BOX(&forward_cuda));
  m.impl("filter2d_backward", TORCH_BOX(&backward_cuda));
  m.impl("filter2d_activated", TORCH_BOX(&activated_forward_cuda));
  m.impl("filter2d_activated_backward", TORCH_BOX(&activated_backward_cuda));
}
