// Registers the CUDA kernels of dynfilters::pool_project and ddf_generate.
#include "primitives.cuh"
// Behind it, for USE_CUDA.
#include "../generate_checks.h"
#include "generate.h"
#include "on_device.h"

namespace {

using namespace dynfilters;
namespace kernels = dynfilters::cuda;  // CUDA has a namespace cuda of its own

// The arguments of a call made contiguous, and kept while it is enqueued.
struct Call {
  Tensor x, weight;
  OptionalTensor bias;
  kernels::Storage storage;
  kernels::GenerateParams p{};
  kernels::GenerateOperands o{};
  Tensor logits, mean, partial;

  Call(const Tensor& given, const Tensor& matrix, const OptionalTensor& added)
      : x(is_channels_last(given) ? given : torch::stable::contiguous(given)),
        weight(torch::stable::contiguous(matrix)),
        bias(contiguous(added)),
        storage(storage_of<kernels::Storage>(x)) {
    const bool pixels = is_channels_last(x);
    const int64_t H = x.size(2), W = x.size(3);
    p.batch = x.size(0), p.channels = x.size(1), p.positions = H * W, p.outputs = weight.size(0), p.pixels = pixels;
    logits = empty_as(x, {p.batch, p.outputs, H, W}, pixels);
    mean = torch::stable::new_empty(x, Sizes{p.batch, p.channels});
    const auto type = storage == kernels::Storage::kFloat64 ? ScalarType::Double : ScalarType::Float;
    partial = torch::stable::new_empty(x, Sizes{int64_t(kernels::partial_sums(p))}, type);
    o.x = x.const_data_ptr(), o.weight = weight.const_data_ptr(), o.bias = data(bias);
    o.logits = logits.mutable_data_ptr(), o.mean = mean.mutable_data_ptr(), o.partial = partial.mutable_data_ptr();
  }
  static OptionalTensor contiguous(const OptionalTensor& tensor) {
    return tensor ? OptionalTensor(torch::stable::contiguous(*tensor)) : std::nullopt;
  }
};

std::tuple<Tensor, Tensor> pool_project_cuda(Tensor x, Tensor weight, OptionalTensor bias) {
  check_projection(x, weight, bias);
  const OnDeviceOf device(x);
  const Call call(x, weight, bias);
  kernels::pool_project(call.p, call.storage, call.o, device.stream());
  return {call.logits, call.mean};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> ddf_generate_cuda(Tensor x, Tensor weight, OptionalTensor bias,
                                                             Tensor squeeze_weight, OptionalTensor squeeze_bias,
                                                             Tensor expand_weight, OptionalTensor expand_bias) {
  check_projection(x, weight, bias);
  check_layers(x, squeeze_weight, squeeze_bias, expand_weight, expand_bias);
  const OnDeviceOf device(x);
  Call call(x, weight, bias);
  call.p.squeezed = squeeze_weight.size(0), call.p.expanded = expand_weight.size(0);
  STD_TORCH_CHECK(kernels::fits_generate(call.p, call.storage), "ddf_generate: on CUDA it takes C + S of at most ",
                  call.storage == kernels::Storage::kFloat64 ? 12288 : 24576, ", got ", call.p.channels, " + ",
                  call.p.squeezed);
  squeeze_weight = torch::stable::contiguous(squeeze_weight), squeeze_bias = Call::contiguous(squeeze_bias);
  expand_weight = torch::stable::contiguous(expand_weight), expand_bias = Call::contiguous(expand_bias);
  const int64_t B = call.p.batch, C = call.p.channels;
  Tensor hidden = torch::stable::new_empty(x, Sizes{B, call.p.squeezed});
  Tensor taps = torch::stable::new_empty(x, Sizes{B, C, call.p.expanded / C});
  call.o.squeeze_weight = squeeze_weight.const_data_ptr(), call.o.squeeze_bias = data(squeeze_bias);
  call.o.expand_weight = expand_weight.const_data_ptr(), call.o.expand_bias = data(expand_bias);
  call.o.hidden = hidden.mutable_data_ptr(), call.o.taps = taps.mutable_data_ptr();
  kernels::ddf_generate(call.p, call.storage, call.o, device.stream());
  return {call.logits, taps, call.mean, hidden};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dynfilters, CUDA, m) {
  m.impl("pool_project", TORCH_BOX(&pool_project_cuda));
  m.impl("ddf_generate", TORCH_BOX(&ddf_generate_cuda));
}
