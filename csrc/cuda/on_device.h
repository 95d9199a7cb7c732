// The device and the stream that an op's kernels go to. Behind primitives.cuh, for USE_CUDA.
#pragma once
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "../tensors.h"

namespace dynfilters {

// The current stream of the device that is current while this lives: that of x.
class OnDeviceOf {
 public:
  explicit OnDeviceOf(const Tensor& x) : guard_(x.get_device_index()) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream_));
  }
  void* stream() const { return stream_; }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  void* stream_ = nullptr;
};

}  // namespace dynfilters
