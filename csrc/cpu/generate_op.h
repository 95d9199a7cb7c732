// Registers dynfilters::pool_project and ddf_generate for the CPU. For register.cpp alone, because
// torch's headers take longer to compile than everything else here.
#pragma once
#include <tuple>

#include "../generate_checks.h"
#include "fully_connected.h"
#include "pool_project.h"

namespace dynfilters::cpu {

inline std::tuple<Tensor, Tensor> pool_project_cpu(Tensor x, Tensor weight, OptionalTensor bias) {
  check_projection(x, weight, bias);
  const Storage storage = storage_of<Storage>(x);
  PoolProject p{};
  p.batch = x.size(0), p.channels = x.size(1), p.outputs = weight.size(0), p.positions = x.size(2) * x.size(3);
  p.pixels = is_channels_last(x);
  if (!p.pixels) x = torch::stable::contiguous(x);
  weight = torch::stable::contiguous(weight);
  if (bias) bias = torch::stable::contiguous(*bias);
  Tensor logits = empty_as(x, {p.batch, p.outputs, x.size(2), x.size(3)}, p.pixels);
  Tensor mean = torch::stable::new_empty(x, Sizes{p.batch, p.channels});
  const int64_t tasks = p.batch * tiles_of(p);
  const auto accumulator = storage == Storage::kFloat64 ? ScalarType::Double : ScalarType::Float;
  Tensor partial = torch::stable::new_empty(x, Sizes{tasks * p.channels}, accumulator);
  p.x = x.const_data_ptr(), p.weight = weight.const_data_ptr(), p.bias = data(bias);
  p.logits = logits.mutable_data_ptr(), p.mean = mean.mutable_data_ptr(), p.partial = partial.mutable_data_ptr();
  torch::stable::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) { pool_project(p, storage, begin, end); });
  pool_project_mean(p, storage, 0, p.batch);
  return {logits, mean};
}

// (batch, inputs) → `sizes`, one row of the weight for each element of a sample.
inline Tensor apply_layer(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, bool relu,
                          const Sizes& sizes) {
  const Storage storage = storage_of<Storage>(x);
  const Tensor rows = torch::stable::contiguous(weight);
  const OptionalTensor added = bias ? OptionalTensor(torch::stable::contiguous(*bias)) : std::nullopt;
  Tensor y = torch::stable::new_empty(x, sizes);
  FullyConnected p{x.size(0), weight.size(1), weight.size(0), relu, x.const_data_ptr(), rows.const_data_ptr(),
                   data(added), y.mutable_data_ptr()};
  torch::stable::parallel_for(0, p.blocks(), 1,
                              [&](int64_t begin, int64_t end) { fully_connected(p, storage, begin, end); });
  return y;
}

inline std::tuple<Tensor, Tensor, Tensor, Tensor> ddf_generate_cpu(Tensor x, Tensor weight, OptionalTensor bias,
                                                                   Tensor squeeze_weight, OptionalTensor squeeze_bias,
                                                                   Tensor expand_weight, OptionalTensor expand_bias) {
  check_projection(x, weight, bias);
  check_layers(x, squeeze_weight, squeeze_bias, expand_weight, expand_bias);
  const auto [logits, mean] = pool_project_cpu(x, weight, bias);
  const int64_t B = x.size(0), C = x.size(1);
  const Tensor hidden = apply_layer(mean, squeeze_weight, squeeze_bias, true, {B, squeeze_weight.size(0)});
  const Tensor taps = apply_layer(hidden, expand_weight, expand_bias, false, {B, C, expand_weight.size(0) / C});
  return {logits, taps, mean, hidden};
}

}  // namespace dynfilters::cpu

STABLE_TORCH_LIBRARY_IMPL(dynfilters, CPU, m) {
  m.impl("pool_project", TORCH_BOX(&dynfilters::cpu::pool_project_cpu));
  m.impl("ddf_generate", TORCH_BOX(&dynfilters::cpu::ddf_generate_cpu));
}
