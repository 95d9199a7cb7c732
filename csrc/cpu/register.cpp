// Registers the CPU kernels of dynfilters::filter2d and its gradient. The schemas, and all checks
// of arguments that a user could get wrong, are in Python.
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <tuple>

#include "../tensors.h"
#include "activate.h"
#include "generate_op.h"
#include "kernels.h"
#include "nonfinite.h"

namespace {

using namespace dynfilters;
using namespace dynfilters::cpu;

// Whether all runs of tasks succeeded. `least`: tasks that are worth a thread.
template <class F>
bool over_tasks(int64_t tasks, const F& run, int64_t least = 1) {
  std::atomic<bool> done{true};
  torch::stable::parallel_for(0, tasks, least, [&](int64_t begin, int64_t end) {
    if (!run(begin, end)) done = false;
  });
  return done;
}
// Whether all shares of the tasks succeeded.
template <class F>
bool over_shares(int64_t count, const F& run) {
  WorkQueue queue(count);
  return over_tasks(count, [&](int64_t begin, int64_t end) {
    Worker worker(queue, begin, end);
    return !worker.next() || run(worker);
  });
}
// The fastest way, or where that cannot serve the values, the one that serves all.
template <class F>
void run_best(const Filter2dParams& p, const Tensor& x, const MemoryFormat& layout, const F& run) {
  const int64_t bytes = x.element_size();
  if (!run(plan_for(p, bytes, layout))) run(planar_plan(p, std::max<int64_t>(bytes, 4)));
}

struct Gradients {
  Tensor x, spatial, channel;  // channel: of the accumulation type
};

ScalarType accumulator_of(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}
// The passes take the few channel taps in the accumulation type.
OptionalTensor widened(const OptionalTensor& channel) {
  if (!channel || channel->scalar_type() == accumulator_of(*channel)) return channel;
  return torch::stable::to(*channel, ScalarType::Float);
}
void set_channel_strides(Filter2dParams& p, const OptionalTensor& channel) {
  for (int i = 0; channel && i < int(channel->dim()); ++i) p.cs[i] = channel->stride(i);
}

Tensor run_forward(Filter2dParams p, const Tensor& x, const OptionalTensor& spatial, const OptionalTensor& channel,
                   const Activation& activation) {
  const Storage storage = storage_of<Storage>(x);
  Tensor y = empty_as(x, {p.batch, p.channels, p.rows * p.scale, p.cols * p.scale}, is_channels_last(x));
  set_output_strides(p, y), set_channel_strides(p, channel);
  Operands o{};
  o.x = x.const_data_ptr(), o.spatial = data(spatial), o.channel = data(channel), o.y = y.mutable_data_ptr();
  o.activation = activation, o.threads = torch::stable::get_num_threads();
  run_best(p, x, {true, x.is_contiguous(), is_channels_last(x)}, [&](const Plan& plan) {
    return over_shares(p.batch * plan.tiles.count(),
                       [&](Worker& worker) { return forward(p, storage, o, plan, worker); });
  });
  return y;
}

// Which gradients are wanted.
struct Wanted {
  bool x, spatial, channel;
};

// See nonfinite.h.
void correct_grad_x(const Filter2dParams& p, Storage storage, const Operands& o) {
  const int64_t taps = p.channels * p.taps() * p.channel_phases, many = 64 * 1024;
  const auto are_finite = [&](int64_t begin, int64_t end) { return channel_is_finite(p, storage, o, begin, end); };
  if (over_tasks(p.batch, are_finite, std::max<int64_t>(many / taps, 1))) return;
  over_tasks(p.batch, [&](int64_t begin, int64_t end) {
    grad_x_nonfinite(p, storage, o, begin, end);
    return true;
  });
}

Gradients run_backward(Filter2dParams p, const Tensor& grad, const Tensor& x, const OptionalTensor& spatial,
                       const OptionalTensor& channel, const Activation& activation, const Wanted& want) {
  const Storage storage = storage_of<Storage>(x);
  check_gradient(p, grad, x);
  const auto empty = [&](const Sizes& sizes) { return torch::stable::new_empty(x, sizes); };
  Tensor gx = want.x ? empty_as(x, {p.batch, p.channels, p.height, p.width}, is_channels_last(x)) : empty({0});
  Tensor gs = empty(want.spatial ? Sizes{p.batch, p.groups, p.taps(), p.rows * p.scale, p.cols * p.scale} : Sizes{0});
  Sizes channel_sizes{p.batch, p.channels, p.taps()};
  if (channel && channel->dim() == 4) channel_sizes.push_back(p.channel_phases);
  const auto accumulator = accumulator_of(x);
  Tensor gc = torch::stable::new_empty(x, want.channel ? channel_sizes : Sizes{0}, accumulator);
  set_output_strides(p, grad), set_channel_strides(p, channel);
  for (int i = 0; want.x && i < 4; ++i) p.gs[i] = gx.stride(i);
  Operands o{};
  o.x = x.const_data_ptr(), o.grad = grad.const_data_ptr(), o.spatial = data(spatial), o.channel = data(channel);
  o.grad_x = want.x ? gx.mutable_data_ptr() : nullptr;
  o.grad_spatial = want.spatial ? gs.mutable_data_ptr() : nullptr;
  o.activation = activation, o.threads = torch::stable::get_num_threads();
  const bool dense = x.is_contiguous() && grad.is_contiguous(), pixels = is_channels_last(x) && grad.stride(1) == 1;
  run_best(p, x, {false, dense, pixels}, [&](const Plan& plan) {
    const int64_t chunks = chunks_of(p, plan.tiles), sums = p.batch * chunks * p.channels * p.channel_phases * p.taps();
    // The sums of a sample that is not cut are in place at once, but for the order of phases.
    const bool parts = want.channel && (chunks > 1 || p.channel_phases > 1);
    Tensor partial = parts ? torch::stable::new_empty(x, Sizes{sums}, accumulator) : gc;
    o.partial = want.channel ? partial.mutable_data_ptr() : nullptr;
    const bool done =
        over_shares(p.batch * chunks, [&](Worker& worker) { return backward(p, storage, o, plan, chunks, worker); });
    return done && (!parts || over_tasks(p.batch, [&](int64_t begin, int64_t end) {
             reduce_channel(p, o.partial, chunks, accumulator == ScalarType::Double, gc.mutable_data_ptr(), begin, end);
             return true;
           }));
  });
  if (want.x && channel) correct_grad_x(p, storage, o);
  return {gx, gs, gc};
}

Tensor forward_cpu(Tensor x, OptionalTensor spatial, OptionalTensor channel, Sizes kernel_size, int64_t stride,
                   int64_t dilation, int64_t scale, Text combine) {
  const Filter2dParams p = params_of(x, spatial, channel, kernel_size, stride, dilation, scale, take(combine));
  return run_forward(p, x, spatial, widened(channel), {});
}

std::tuple<Tensor, Tensor, Tensor> backward_cpu(Tensor grad, Tensor x, OptionalTensor spatial, OptionalTensor channel,
                                                Sizes kernel_size, int64_t stride, int64_t dilation, int64_t scale,
                                                Text combine, bool want_x, bool want_spatial,
                                                bool want_channel) {
  const Filter2dParams p = params_of(x, spatial, channel, kernel_size, stride, dilation, scale, take(combine));
  const Gradients g = run_backward(p, grad, x, spatial, widened(channel), {}, {want_x, want_spatial, want_channel});
  return {g.x, g.spatial, torch::stable::to(g.channel, x.scalar_type())};
}

// ---- with activations: spatial's inside the passes, those of the few channel taps around them --

class Channel {
 public:
  Channel(const Filter2dParams& p, const Tensor& x, const OptionalTensor& raw, OptionalTensor std,
          const Activation& activation)
      : storage(storage_of<Storage>(x)), activation(activation), raw(raw) {
    if (!raw) return;
    taps = {p.batch, p.channels, p.taps(), p.channel_phases, 1, {}, raw->const_data_ptr(), nullptr};
    for (int i = 0; i < int(raw->dim()); ++i) taps.strides[i] = raw->stride(i);
    if (!std) return;
    kept = torch::stable::contiguous(*std);
    taps.std = kept->const_data_ptr(), taps.std_phases = std->dim() == 3 ? p.channel_phases : 1;
  }
  OptionalTensor activated() const {
    if (!raw || (activation.is_identity() && !taps.std)) return widened(raw);
    Tensor out = torch::stable::new_empty(*raw, sizes_of(*raw), accumulator_of(*raw));
    over_tasks(taps.batch, [&](int64_t begin, int64_t end) {
      activate_channel(taps, storage, activation, out.mutable_data_ptr(), begin, end);
      return true;
    });
    return out;
  }
  struct Found {
    Tensor raw, std;
  };
  // From the gradient in the activated taps.
  Found differentiate(const Tensor& x, const Tensor& grad, bool want_raw, bool want_std) const {
    const auto empty = [&](bool wanted, const OptionalTensor& like) {
      return torch::stable::new_empty(x, wanted ? sizes_of(*like) : Sizes{0});
    };
    Found found{empty(want_raw, raw), empty(want_std, kept)};
    const int64_t block = 16;  // channels: whole vectors, on any machine
    if (want_raw || want_std)
      over_tasks((taps.channels + block - 1) / block, [&](int64_t begin, int64_t end) {
        activate_channel_backward(
            taps, storage, activation, grad.const_data_ptr(), want_raw ? found.raw.mutable_data_ptr() : nullptr,
            want_std ? found.std.mutable_data_ptr() : nullptr, begin * block, std::min(end * block, taps.channels));
        return true;
      });
    return found;
  }

 private:
  const Storage storage;
  const Activation activation;
  const OptionalTensor raw;
  OptionalTensor kept;
  ChannelTaps taps{};
};

Tensor activated_forward_cpu(Tensor x, OptionalTensor spatial, OptionalTensor channel, OptionalTensor channel_std,
                             Sizes kernel_size, int64_t stride, int64_t dilation, int64_t scale, Text combine,
                             Text spatial_activation, Text channel_activation, double spatial_gain,
                             double channel_gain, double eps) {
  const Filter2dParams p = params_of(x, spatial, channel, kernel_size, stride, dilation, scale, take(combine));
  const Activations how =
      checked_activations(p, take(spatial_activation), take(channel_activation), spatial_gain, channel_gain, eps);
  check_std(p, channel_std, how, x);
  const Channel taps(p, x, channel, channel_std, how.channel);
  return run_forward(p, x, spatial, taps.activated(), how.spatial);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> activated_backward_cpu(
    Tensor grad, Tensor x, OptionalTensor spatial, OptionalTensor channel, OptionalTensor channel_std,
    Sizes kernel_size, int64_t stride, int64_t dilation, int64_t scale, Text combine,
    Text spatial_activation, Text channel_activation, double spatial_gain, double channel_gain,
    double eps, bool want_x, bool want_spatial, bool want_channel, bool want_std) {
  const Filter2dParams p = params_of(x, spatial, channel, kernel_size, stride, dilation, scale, take(combine));
  const Activations how =
      checked_activations(p, take(spatial_activation), take(channel_activation), spatial_gain, channel_gain, eps);
  check_std(p, channel_std, how, x);
  check_wanted(p, channel_std.has_value(), want_spatial, want_channel, want_std);
  const Channel taps(p, x, channel, channel_std, how.channel);
  const Gradients g = run_backward(p, grad, x, spatial, taps.activated(), how.spatial,
                                   {want_x, want_spatial, want_channel || want_std});
  const auto of_channel = taps.differentiate(x, g.channel, want_channel, want_std);
  return {g.x, g.spatial, of_channel.raw, of_channel.std};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dynfilters, CPU, m) {
  m.impl("filter2d", TORCH_BOX(&forward_cpu));
  m.impl("filter2d_backward", TORCH_BOX(&backward_cpu));
  m.impl("filter2d_activated", TORCH_BOX(&activated_forward_cpu));
  m.impl("filter2d_activated_backward", TORCH_BOX(&activated_backward_cpu));
}
