// Registers the CPU kernels of dynfilters::filter2d and its gradient. The schemas, and all checks
// of arguments that a user could get wrong, are in Python.
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <tuple>

#include "../tensors.h"
#include "kernels.h"

namespace {

using namespace dynfilters;
using namespace dynfilters::cpu;

// Whether all runs of tasks succeeded.
template <class F>
bool over_tasks(int64_t tasks, const F& run) {
  std::atomic<bool> done{true};
  torch::stable::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    if (!run(begin, end)) done = false;
  });
  return done;
}
// The fastest way, or where that cannot serve the values, the one that serves all.
template <class F>
void run_best(const Problem& p, const Tensor& x, bool dense, bool pixels, const F& run) {
  const int64_t bytes = x.element_size();
  if (!run(route_of(p, bytes, dense, pixels))) run(planar_route(p, std::max<int64_t>(bytes, 4)));
}

Tensor forward_cpu(Tensor x, OptionalTensor spatial, OptionalTensor channel, Sizes kernel_size, int64_t stride,
                   int64_t dilation, int64_t scale, std::string combine) {
  Problem p = problem_of(x, spatial, channel, kernel_size, stride, dilation, scale, combine);
  const Storage storage = storage_of<Storage>(x);
  Tensor y = empty_as(x, {p.batch, p.channels, p.rows * scale, p.cols * scale}, is_channels_last(x));
  set_output_strides(p, y);
  Operands o{};
  o.x = x.const_data_ptr(), o.spatial = data(spatial), o.channel = data(channel), o.y = y.mutable_data_ptr();
  run_best(p, x, x.is_contiguous(), is_channels_last(x), [&](const Route& route) {
    return over_tasks(p.batch * route.tiles.count(), [&](int64_t begin, int64_t end) {
      return forward(p, storage, o, route, begin, end);
    });
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor> backward_cpu(Tensor grad, Tensor x, OptionalTensor spatial, OptionalTensor channel,
                                                Sizes kernel_size, int64_t stride, int64_t dilation, int64_t scale,
                                                std::string combine, bool want_x, bool want_spatial, bool want_channel) {
  Problem p = problem_of(x, spatial, channel, kernel_size, stride, dilation, scale, combine);
  const Storage storage = storage_of<Storage>(x);
  check_gradient(p, grad, x);
  const auto empty = [&](const Sizes& sizes) { return torch::stable::new_empty(x, sizes); };
  Tensor gx = want_x ? empty_as(x, {p.batch, p.channels, p.height, p.width}, is_channels_last(x)) : empty({0});
  Tensor gs = empty(want_spatial ? Sizes{p.batch, p.groups, p.taps(), p.rows * scale, p.cols * scale} : Sizes{0});
  Sizes channel_sizes{p.batch, p.channels, p.taps()};
  if (channel && channel->dim() == 4) channel_sizes.push_back(p.phases);
  Tensor gc = empty(want_channel ? channel_sizes : Sizes{0});
  set_output_strides(p, grad);
  for (int i = 0; want_x && i < 4; ++i) p.gs[i] = gx.stride(i);
  Operands o{};
  o.x = x.const_data_ptr(), o.grad = grad.const_data_ptr(), o.spatial = data(spatial), o.channel = data(channel);
  o.grad_x = want_x ? gx.mutable_data_ptr() : nullptr;
  o.grad_spatial = want_spatial ? gs.mutable_data_ptr() : nullptr;
  run_best(p, x, x.is_contiguous() && grad.is_contiguous(), is_channels_last(x) && grad.stride(1) == 1, [&](const Route& route) {
    const int64_t chunks = chunks_of(p, route.tiles), sums = p.batch * chunks * p.channels * p.phases * p.taps();
    const auto accumulator = storage == Storage::kFloat64 ? ScalarType::Double : ScalarType::Float;
    Tensor partial = torch::stable::new_empty(x, Sizes{want_channel ? sums : 0}, accumulator);
    o.partial = want_channel ? partial.mutable_data_ptr() : nullptr;
    const bool done = over_tasks(p.batch * chunks, [&](int64_t begin, int64_t end) {
      return backward(p, storage, o, route, chunks, begin, end);
    });
    return done && (!want_channel || over_tasks(p.batch, [&](int64_t begin, int64_t end) {
      reduce_channel(p, storage, o.partial, chunks, gc.mutable_data_ptr(), begin, end);
      return true;
    }));
  });
  return {gx, gs, gc};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dynfilters, CPU, m) {
  m.impl("filter2d", TORCH_BOX(&forward_cpu));
  m.impl("filter2d_backward", TORCH_BOX(&backward_cpu));
}
