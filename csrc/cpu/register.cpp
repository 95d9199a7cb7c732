// The ops on the CPU.
#include <algorithm>
#include <atomic>

#include "../ops.h"
#include "activate.h"
#include "generate.h"
#include "kernels.h"

namespace {

using namespace dynfilters;
using namespace dynfilters::cpu;

// Returns whether all runs of tasks succeeded. `least`: tasks that are worth a thread.
template <class F>
bool over_tasks(int64_t tasks, const F& run, int64_t least = 1) {
  std::atomic<bool> done{true};
  torch::stable::parallel_for(0, tasks, least, [&](int64_t begin, int64_t end) {
    if (!run(begin, end)) done = false;
  });
  return done;
}
// Likewise, for tasks that threads take from one another.
template <class F>
bool over_queue(int64_t count, const F& run) {
  WorkQueue queue(count);
  return over_tasks(count, [&](int64_t begin, int64_t end) {
    Worker worker(queue, begin, end);
    return !worker.next() || run(worker);
  });
}
// Runs the fastest algorithm, or where that cannot serve the values, the one that serves all.
template <class F>
void run_best(const Call& call, const MemoryFormat& format, const F& run) {
  const int64_t bytes = call.x.element_size();
  if (!run(plan_for(call.p, bytes, format))) run(planar_plan(call.p, std::max<int64_t>(bytes, 4)));
}

OptionalTensor to_accumulator(const OptionalTensor& tensor) {
  if (!tensor || tensor->scalar_type() == accumulator_of(*tensor)) return tensor;
  return torch::stable::to(*tensor, ScalarType::Float);
}

// The few channel taps are activated before the passes, which take them in the accumulation type, and their gradient
// is differentiated behind them; spatial taps are activated inside the passes.
class ChannelActivation {
 public:
  explicit ChannelActivation(const Call& call) : call(call), how(call.activations.channel) {
    if (!call.channel) return;
    const Filter2dParams& p = call.p;
    taps = {p.batch,           p.channels, p.taps(),           p.channel_phases,
            call.std_phases(), {},         data(call.channel), data(call.channel_std)};
    std::copy_n(p.cs, 4, taps.strides);
  }
  bool is_identity() const { return how.is_identity() && !call.channel_std; }
  OptionalTensor forward() const {
    if (!call.channel || is_identity()) return to_accumulator(call.channel);
    Tensor out = torch::stable::new_empty(call.x, sizes_of(*call.channel), accumulator_of(call.x));
    over_tasks(taps.batch, [&](int64_t begin, int64_t end) {
      activate_channel(taps, storage_of(call.x), how, out.mutable_data_ptr(), begin, end);
      return true;
    });
    return out;
  }
  // From the gradient in the activated taps.
  void backward(const Tensor& grad, const Wanted& want, Gradients& found) const {
    void* const raw = want.channel ? found.channel.mutable_data_ptr() : nullptr;
    void* const std = want.std ? found.std.mutable_data_ptr() : nullptr;
    const int64_t block = 16;  // channels: whole vectors, on any machine
    over_tasks((taps.channels + block - 1) / block, [&](int64_t begin, int64_t end) {
      activate_channel_backward(taps, storage_of(call.x), how, grad.const_data_ptr(), raw, std, begin * block,
                                std::min(end * block, taps.channels));
      return true;
    });
  }

 private:
  const Call& call;
  const Activation how;
  ChannelTaps taps{};
};

// See channel_is_finite.
void correct_grad_x(const Filter2dParams& p, Storage storage, const Operands& o) {
  const int64_t taps = p.channels * p.taps() * p.channel_phases, many = 64 * 1024;
  const auto are_finite = [&](int64_t begin, int64_t end) { return channel_is_finite(p, storage, o, begin, end); };
  if (over_tasks(p.batch, are_finite, std::max<int64_t>(many / taps, 1))) return;
  over_tasks(p.batch, [&](int64_t begin, int64_t end) {
    grad_x_nonfinite(p, storage, o, begin, end);
    return true;
  });
}

Operands operands_of(const Call& call, const OptionalTensor& channel) {
  Operands o{};
  o.x = call.x.const_data_ptr(), o.spatial = data(call.spatial), o.channel = data(channel);
  o.activation = call.activations.spatial, o.threads = torch::stable::get_num_threads();
  return o;
}

struct Cpu {
  explicit Cpu(const Tensor&) {}

  void forward(const Call& call, const Tensor& y) {
    const Storage storage = storage_of(call.x);
    const OptionalTensor channel = ChannelActivation(call).forward();
    Filter2dParams p = call.p;
    copy_strides(channel, p.cs);
    Operands o = operands_of(call, channel);
    o.y = y.mutable_data_ptr();
    run_best(call, {true, call.x.is_contiguous(), is_channels_last(call.x)}, [&](const Plan& plan) {
      return over_queue(p.batch * plan.tiles.count(),
                        [&](Worker& worker) { return cpu::forward(p, storage, o, plan, worker); });
    });
  }

  void backward(const Call& call, const Tensor& grad, const Wanted& want, Gradients& found) {
    const Storage storage = storage_of(call.x);
    const ChannelActivation activation(call);
    const OptionalTensor channel = activation.forward();
    Filter2dParams p = call.p;
    copy_strides(channel, p.cs);
    Operands o = operands_of(call, channel);
    o.grad = grad.const_data_ptr();
    o.grad_x = want.x ? found.x.mutable_data_ptr() : nullptr;
    o.grad_spatial = want.spatial ? found.spatial.mutable_data_ptr() : nullptr;
    const bool wants_channel = want.channel || want.std;
    const auto type = accumulator_of(call.x);
    // In the activated taps, of the accumulation type: the result itself where that is the same.
    const bool in_place = activation.is_identity() && found.channel.scalar_type() == type;
    Tensor grad_channel =
        wants_channel && !in_place ? torch::stable::new_empty(call.x, sizes_of(*call.channel), type) : found.channel;
    const bool dense = call.x.is_contiguous() && grad.is_contiguous();
    const bool pixels = is_channels_last(call.x) && grad.stride(1) == 1;
    run_best(call, {false, dense, pixels}, [&](const Plan& plan) {
      const int64_t chunks = chunks_of(p, plan.tiles);
      // The sums of a sample that is not cut are in place at once, but for the order of phases.
      const bool parts = wants_channel && (chunks > 1 || p.channel_phases > 1);
      const Sizes sums{p.batch * chunks * p.channels * p.channel_phases * p.taps()};
      Tensor partial = parts ? torch::stable::new_empty(call.x, sums, type) : grad_channel;
      o.partial = wants_channel ? partial.mutable_data_ptr() : nullptr;
      const bool done = over_queue(p.batch * chunks,
                                   [&](Worker& worker) { return cpu::backward(p, storage, o, plan, chunks, worker); });
      return done && (!parts || over_tasks(p.batch, [&](int64_t begin, int64_t end) {
               reduce_channel(p, o.partial, chunks, type == ScalarType::Double, grad_channel.mutable_data_ptr(), begin,
                              end);
               return true;
             }));
    });
    if (want.x && channel) correct_grad_x(p, storage, o);
    if (!wants_channel || in_place) return;
    if (activation.is_identity())
      torch::stable::copy_(found.channel, grad_channel);
    else
      activation.backward(grad_channel, want, found);
  }

  static int64_t partial_sums(const GenerateParams& p) { return p.batch * tiles_of(p) * p.channels; }

  void pool_project(const GenerateParams& p, Storage storage, const GenerateOperands& o) {
    torch::stable::parallel_for(0, p.batch * tiles_of(p), 1,
                                [&](int64_t begin, int64_t end) { cpu::pool_project(p, o, storage, begin, end); });
    pool_project_mean(p, o, storage, 0, p.batch);
  }

  void ddf_generate(const GenerateParams& p, Storage storage, const GenerateOperands& o) {
    pool_project(p, storage, o);
    const auto apply = [&](const FullyConnected& layer) {
      torch::stable::parallel_for(0, layer.blocks(), 1,
                                  [&](int64_t begin, int64_t end) { fully_connected(layer, storage, begin, end); });
    };
    apply({p.batch, p.channels, p.squeezed, true, o.mean, o.squeeze_weight, o.squeeze_bias, o.hidden});
    apply({p.batch, p.squeezed, p.expanded, false, o.hidden, o.expand_weight, o.expand_bias, o.taps});
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dynfilters, CPU, m) { Ops<Cpu>::register_all(m); }
