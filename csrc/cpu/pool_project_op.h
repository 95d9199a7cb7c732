// Registers dynfilters::pool_project for the CPU. For register.cpp alone, because torch's headers
// take longer to compile than everything else here.
#pragma once
#include <tuple>

#include "../tensors.h"
#include "pool_project.h"

namespace dynfilters::cpu {

inline void check_projection(const Tensor& x, const Tensor& weight, const OptionalTensor& bias) {
  STD_TORCH_CHECK(x.dim() == 4, "x: expected (B, C, H, W)");
  STD_TORCH_CHECK(x.size(1) > 0 && x.size(2) > 0 && x.size(3) > 0, "x: expected (B, C, H, W), none empty but B");
  STD_TORCH_CHECK(weight.dim() == 2 && weight.size(0) > 0, "weight: expected (O, C)");
  check_shape("weight", weight, {weight.size(0), x.size(1)}, x);
  if (bias) check_shape("bias", *bias, {weight.size(0)}, x);
}

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

}  // namespace dynfilters::cpu

STABLE_TORCH_LIBRARY_IMPL(dynfilters, CPU, m) { m.impl("pool_project", TORCH_BOX(&dynfilters::cpu::pool_project_cpu)); }
