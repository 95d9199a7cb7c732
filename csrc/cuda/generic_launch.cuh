// Launches of the generic kernels; see generic.cuh.
#pragma once
#include "generic.cuh"
#include "storage.cuh"

namespace dynfilters::cuda {

template <class T, class Op>
void forward_generic(const Filter2dParams& p, const Operands& operands, Stream stream) {
  const Typed<T> o(operands);
  const int64_t outputs = p.batch * p.channels * p.rows * p.cols * p.scale * p.scale;
  launch(generic_forward<T, Op>, grid_of(blocks_for(outputs)), dim3(kGenericThreads), 0, stream, p, o.x, o.raw,
         o.y);
}

template <class T, class Op>
void backward_generic(const Filter2dParams& p, const Operands& operands, Stream stream) {
  const Typed<T> o(operands);
  const TapTargets<T> to = tap_targets<T>(p, operands, {1, 1});
  if (o.grad_x)
    launch(generic_grad_x<T, Op>, grid_of(blocks_for(p.batch * p.channels * p.height * p.width)),
           dim3(kGenericThreads), 0, stream, p, o.raw, o.grad, o.grad_x);
  if constexpr (Op::kSpatial)
    if (to.spatial.is_wanted())
      launch(generic_grad_spatial<T, Op>, grid_of(blocks_for(to.spatial.elements)), dim3(kGenericThreads), 0, stream, p,
             o.x, o.raw, o.grad, to.spatial);
  if constexpr (Op::kChannel)
    if (to.channel.is_wanted())
      launch(generic_grad_channel<T, Op>, grid_of(to.channel.elements), dim3(kReduceThreads),
             kReduceThreads / 32 * sizeof(Accumulator<T>), stream, p, o.x, o.raw, o.grad, to.channel);
}

}  // namespace dynfilters::cuda
