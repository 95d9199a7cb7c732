// Registers the CUDA kernels of dynfilters::filter2d and its gradient. The schemas, and all checks
// of arguments that a user could get wrong, are in Python.
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

std::string describe(const Problem& p) {
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
void run(const char* what, const Problem& p, const F& f) {
  try {
    f();
  } catch (const std::exception& error) {
    throw std::runtime_error(std::string(what) + " failed on CUDA for " + describe(p) + ": " + error.what());
  }
}

Tensor forward_cuda(Tensor x, OptionalTensor spatial, OptionalTensor channel, Sizes kernel_size, int64_t stride,
                    int64_t dilation, int64_t scale, std::string combine) {
  Problem p = problem_of(x, spatial, channel, kernel_size, stride, dilation, scale, combine);
  const OnDeviceOf device(x);
  Tensor y = empty_as(x, {p.batch, p.channels, p.rows * scale, p.cols * scale}, is_channels_last(x));
  set_output_strides(p, y);
  kernels::Operands o{};
  o.x = x.const_data_ptr(), o.spatial = data(spatial), o.channel = data(channel), o.y = y.mutable_data_ptr();
  run("filter2d", p, [&] { kernels::forward(p, storage_of<kernels::Storage>(x), o, device.stream()); });
  return y;
}

std::tuple<Tensor, Tensor, Tensor> backward_cuda(Tensor grad, Tensor x, OptionalTensor spatial, OptionalTensor channel,
                                                 Sizes kernel_size, int64_t stride, int64_t dilation, int64_t scale,
                                                 std::string combine, bool want_x, bool want_spatial,
                                                 bool want_channel) {
  Problem p = problem_of(x, spatial, channel, kernel_size, stride, dilation, scale, combine);
  check_gradient(p, grad, x);
  check_gradient(p, grad, x);
  set_output_strides(p, grad);
  const OnDeviceOf device(x);
  const auto storage = storage_of<kernels::Storage>(x);
  Tensor gx = want_x ? empty_as(x, {p.batch, p.channels, p.height, p.width}, is_channels_last(x))
                     : torch::stable::new_empty(x, Sizes{0});
  Tensor gs = torch::stable::new_empty(
      x, want_spatial ? Sizes{p.batch, p.groups, p.taps(), p.rows * scale, p.cols * scale} : Sizes{0});
  Sizes channel_sizes{p.batch, p.channels, p.taps()};
  if (channel && channel->dim() == 4) channel_sizes.push_back(p.phases);
  Tensor gc = torch::stable::new_empty(x, want_channel ? channel_sizes : Sizes{0});
  kernels::Operands o{};
  o.x = x.const_data_ptr(), o.grad = grad.const_data_ptr(), o.spatial = data(spatial), o.channel = data(channel);
  o.grad_x = want_x ? gx.mutable_data_ptr() : nullptr;
  for (int i = 0; want_x && i < 4; ++i) p.gs[i] = gx.stride(i);
  o.grad_spatial = want_spatial ? gs.mutable_data_ptr() : nullptr;
  o.grad_channel = want_channel ? gc.mutable_data_ptr() : nullptr;
  // Freed when this returns, for later work of the same stream.
  const auto type = storage == kernels::Storage::kFloat64 ? ScalarType::Double : ScalarType::Float;
  Tensor workspace = torch::stable::new_empty(x, Sizes{int64_t(kernels::workspace_elements(p, storage, o))}, type);
  o.workspace = workspace.mutable_data_ptr();
  run("filter2d_backward", p, [&] { kernels::backward(p, storage, o, device.stream()); });
  return {gx, gs, gc};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dynfilters, CUDA, m) {
  m.impl("filter2d", TORCH_BOX(&forward_cuda));
  m.impl("filter2d_backward", TORCH_BOX(&backward_cuda));
}
