// The ops on CUDA.
#include "primitives.cuh"
// Behind it, for USE_CUDA.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <stdexcept>
#include <string>

#include "../ops.h"
#include "generate.h"
#include "kernels.h"

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

// Turns what CUDA reports into an exception that says which call it was.
template <class F>
void run(const Call& call, const F& f) {
  try {
    f();
  } catch (const std::exception& error) {
    throw std::runtime_error(std::string(call.op) + " failed on CUDA for " + describe(call.p) + ": " + error.what());
  }
}

kernels::Operands operands_of(const Call& call) {
  kernels::Operands o{};
  o.x = call.x.const_data_ptr(), o.spatial = data(call.spatial), o.channel = data(call.channel);
  o.spatial_activation = call.activations.spatial, o.channel_activation = call.activations.channel;
  o.channel_std = data(call.channel_std), o.std_phases = call.std_phases();
  return o;
}

// Memory of the accumulation type. Freed when this object goes, for later work of the same stream.
class Workspace {
 public:
  Workspace(const Tensor& x, size_t elements)
      : tensor_(elements ? OptionalTensor(torch::stable::new_empty(x, Sizes{int64_t(elements)}, accumulator_of(x)))
                         : std::nullopt) {}
  void* data() const { return tensor_ ? tensor_->mutable_data_ptr() : nullptr; }

 private:
  OptionalTensor tensor_;
};

// While it lives, the device of x is the current one. Kernels go to its current stream.
class Cuda {
 public:
  explicit Cuda(const Tensor& x) : guard_(x.get_device_index()) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream_));
  }

  void forward(const Call& call, const Tensor& y) {
    const Storage storage = storage_of(call.x);
    kernels::Operands o = operands_of(call);
    o.y = y.mutable_data_ptr();
    const Workspace workspace(call.x, kernels::forward_workspace(call.p, storage, o));
    o.workspace = workspace.data();
    run(call, [&] { kernels::forward(call.p, storage, o, stream_); });
  }

  void backward(const Call& call, const Tensor& grad, const Wanted& want, Gradients& found) {
    const Storage storage = storage_of(call.x);
    kernels::Operands o = operands_of(call);
    o.grad = grad.const_data_ptr();
    o.grad_x = want.x ? found.x.mutable_data_ptr() : nullptr;
    o.grad_spatial = want.spatial ? found.spatial.mutable_data_ptr() : nullptr;
    o.grad_channel = want.channel ? found.channel.mutable_data_ptr() : nullptr;
    o.grad_std = want.std ? found.std.mutable_data_ptr() : nullptr;
    const Workspace workspace(call.x, kernels::backward_workspace(call.p, storage, o));
    o.workspace = workspace.data();
    run(call, [&] { kernels::backward(call.p, storage, o, stream_); });
  }

  static int64_t partial_sums(const GenerateParams& p) { return int64_t(kernels::partial_sums(p)); }

  void pool_project(const GenerateParams& p, Storage storage, const GenerateOperands& o) {
    kernels::pool_project(p, storage, o, stream_);
  }

  void ddf_generate(const GenerateParams& p, Storage storage, const GenerateOperands& o) {
    STD_TORCH_CHECK(kernels::fits_generate(p, storage), "ddf_generate: on CUDA it takes C + S of at most ",
                    storage == Storage::kFloat64 ? 12288 : 24576, ", got ", p.channels, " + ", p.squeezed);
    kernels::ddf_generate(p, storage, o, stream_);
  }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  void* stream_ = nullptr;
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dynfilters, CUDA, m) { Ops<Cuda>::register_all(m); }
