// Registers the CPU kernels of dynfilters::filter2d and its gradient. The schemas, and all checks
// of arguments that a user could get wrong, are in Python.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "../checks.h"
#include "kernels.h"

namespace {

using dynfilters::Combine;
using dynfilters::Problem;
using dynfilters::check_gradient;
using dynfilters::check_operands;
using namespace dynfilters::cpu;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Sizes = std::vector<int64_t>;

Storage storage_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Double: return Storage::kFloat64;
    case ScalarType::Float: return Storage::kFloat32;
    case ScalarType::BFloat16: return Storage::kBFloat16;
    case ScalarType::Half: return Storage::kFloat16;
    default: STD_TORCH_CHECK(false, "x: no CPU kernel for its dtype"); return Storage::kFloat64;
  }
}

// Dense with the channels side by side, and not also dense the other way.
bool is_channels_last(const Tensor& x) {
  if (x.is_contiguous()) return false;
  const int64_t C = x.size(1), H = x.size(2), W = x.size(3);
  auto is = [&](int64_t axis, int64_t stride) { return x.size(axis) == 1 || x.stride(axis) == stride; };
  return is(1, 1) && is(3, C) && is(2, W * C) && is(0, H * W * C);
}

Tensor empty_as(const Tensor& x, Sizes sizes, bool channels_last) {
  Tensor out = torch::stable::new_empty(x, sizes);
  if (!channels_last) return out;
  // A channels_last tensor is a contiguous (B, H, W, C) one, seen with its axes moved.
  Tensor moved = torch::stable::new_empty(x, Sizes{sizes[0], sizes[2], sizes[3], sizes[1]});
  return torch::stable::transpose(torch::stable::transpose(moved, 1, 3), 2, 3);
}

struct Call {
  Problem p{};
  Storage storage;
  bool channels_last, pixels;
};

Call prepare(const Tensor& x, const OptionalTensor& spatial, const OptionalTensor& channel, const Sizes& kernel_size,
             int64_t stride, int64_t dilation, int64_t scale, const std::string& combine) {
  check_operands(x, spatial, channel, kernel_size, stride, dilation, scale, combine);
  Call call;
  Problem& p = call.p;
  call.storage = storage_of(x);
  call.channels_last = call.pixels = is_channels_last(x);
  p.batch = x.size(0), p.channels = x.size(1), p.height = x.size(2), p.width = x.size(3);
  p.kh = kernel_size[0], p.kw = kernel_size[1], p.stride = stride, p.dilation = dilation, p.scale = scale;
  p.rows = (p.height - 1) / stride + 1, p.cols = (p.width - 1) / stride + 1;
  p.groups = spatial ? spatial->size(1) : 1;
  p.phases = channel && channel->dim() == 4 ? channel->size(3) : 1;
  p.combine = !channel ? Combine::kSpatialOnly : !spatial ? Combine::kChannelOnly : combine == "mul" ? Combine::kMul : Combine::kAdd;
  for (int i = 0; i < 4; ++i) p.xs[i] = x.stride(i);
  for (int i = 0; spatial && i < 5; ++i) p.ss[i] = spatial->stride(i);
  for (int i = 0; channel && i < int(channel->dim()); ++i) p.cs[i] = channel->stride(i);
  return call;
}

void set_output_strides(Call& call, const Tensor& y) {
  for (int i = 0; i < 4; ++i) call.p.ys[i] = y.stride(i);
}

const void* data(const OptionalTensor& tensor) { return tensor ? tensor->const_data_ptr() : nullptr; }

template <class F>
void over_tasks(const Call& call, int64_t rows, int64_t element_bytes, const F& run) {
  const Blocks blocks = blocks_of(call.p, call.pixels, rows, element_bytes);
  torch::stable::parallel_for(0, call.p.batch * blocks.count, 1,
                              [&](int64_t begin, int64_t end) { run(blocks, begin, end); });
}

Tensor forward_cpu(Tensor x, OptionalTensor spatial, OptionalTensor channel, Sizes kernel_size, int64_t stride,
                   int64_t dilation, int64_t scale, std::string combine) {
  Call call = prepare(x, spatial, channel, kernel_size, stride, dilation, scale, combine);
  const Problem& p = call.p;
  Tensor y = empty_as(x, {p.batch, p.channels, p.rows * scale, p.cols * scale}, call.channels_last);
  set_output_strides(call, y);
  Operands o{};
  o.x = x.const_data_ptr(), o.spatial = data(spatial), o.channel = data(channel), o.y = y.mutable_data_ptr();
  over_tasks(call, p.rows, x.element_size(), [&](Blocks blocks, int64_t begin, int64_t end) {
    forward(p, call.storage, call.pixels, o, blocks, begin, end);
  });
  return y;
}

// Adds up what the blocks found for grad channel, in their order.
template <class A, class T>
void reduce_channel(const Problem& p, int64_t blocks, const A* partial, T* out) {
  const int64_t per_channel = p.phases * p.taps(), per_block = p.channels * per_channel;
  for (int64_t b = 0; b < p.batch; ++b)
    for (int64_t c = 0; c < p.channels; ++c)
      for (int64_t phase = 0; phase < p.phases; ++phase)
        for (int64_t k = 0; k < p.taps(); ++k) {
          A total = 0;
          for (int64_t block = 0; block < blocks; ++block)
            total += partial[(b * blocks + block) * per_block + c * per_channel + phase * p.taps() + k];
          out[((b * p.channels + c) * p.taps() + k) * p.phases + phase] = T(total);
        }
}

std::tuple<Tensor, Tensor, Tensor> backward_cpu(Tensor grad, Tensor x, OptionalTensor spatial, OptionalTensor channel,
                                                Sizes kernel_size, int64_t stride, int64_t dilation, int64_t scale,
                                                std::string combine, bool want_x, bool want_spatial, bool want_channel) {
  Call call = prepare(x, spatial, channel, kernel_size, stride, dilation, scale, combine);
  Problem& p = call.p;
  check_gradient(p, grad, x);
  // In place only where vectors can run along the channels of both.
  call.pixels = call.pixels && grad.stride(1) == 1;
  set_output_strides(call, grad);
  Tensor gx = want_x ? empty_as(x, {p.batch, p.channels, p.height, p.width}, call.channels_last)
                     : torch::stable::new_empty(x, Sizes{0});
  Tensor gs = torch::stable::new_empty(
      x, want_spatial ? Sizes{p.batch, p.groups, p.taps(), p.rows * scale, p.cols * scale} : Sizes{0});
  Sizes channel_sizes{p.batch, p.channels, p.taps()};
  if (channel && channel->dim() == 4) channel_sizes.push_back(p.phases);
  Operands o{};
  o.x = x.const_data_ptr(), o.grad = grad.const_data_ptr(), o.spatial = data(spatial), o.channel = data(channel);
  if (want_x) {
    Call to_x = call;
    for (int i = 0; i < 4; ++i) to_x.p.xs[i] = gx.stride(i);
    o.grad_x = gx.mutable_data_ptr();
    over_tasks(to_x, p.height, x.element_size(), [&](Blocks blocks, int64_t begin, int64_t end) {
      grad_x(to_x.p, call.storage, call.pixels, o, blocks, begin, end);
    });
  }
  const bool is_double = call.storage == Storage::kFloat64;
  const auto accumulator = is_double ? ScalarType::Double : ScalarType::Float;
  Tensor gc = torch::stable::new_empty(x, want_channel ? channel_sizes : Sizes{0}, accumulator);
  if (want_spatial || want_channel) {
    const Blocks blocks = blocks_of(p, call.pixels, p.rows, x.element_size());
    Tensor partial = torch::stable::new_empty(
        x, Sizes{want_channel ? p.batch * blocks.count * p.channels * p.phases * p.taps() : 0}, accumulator);
    o.grad_spatial = want_spatial ? gs.mutable_data_ptr() : nullptr;
    o.partial = want_channel ? partial.mutable_data_ptr() : nullptr;
    over_tasks(call, p.rows, x.element_size(), [&](Blocks found, int64_t begin, int64_t end) {
      grad_taps(p, call.storage, call.pixels, o, found, begin, end);
    });
    if (want_channel && is_double)
      reduce_channel(p, blocks.count, static_cast<const double*>(o.partial), static_cast<double*>(gc.mutable_data_ptr()));
    else if (want_channel)
      reduce_channel(p, blocks.count, static_cast<const float*>(o.partial), static_cast<float*>(gc.mutable_data_ptr()));
  }
  if (gc.scalar_type() != x.scalar_type()) gc = torch::stable::to(gc, x.scalar_type());
  return {gx, gs, gc};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dynfilters, CPU, m) {
  m.impl("filter2d", TORCH_BOX(&forward_cpu));
  m.impl("filter2d_backward", TORCH_BOX(&backward_cpu));
}
