// Launches of the generic kernels; see generic.cuh.
#pragma once
#include "generic.cuh"
#include "storage.cuh"

namespace dynfilters::cuda {

inline int64_t blocks_for(int64_t items) { return (items + kGenericThreads - 1) / kGenericThreads; }

template <class T, class Op>
void forward_generic(const Problem& p, const Operands& operands, Stream stream) {
  const Typed<T> o(operands);
  const int64_t outputs = p.batch * p.channels * p.rows * p.cols * p.scale * p.scale;
  launch(generic_forward<T, Op>, grid_of(blocks_for(outputs)), dim3(kGenericThreads), 0, stream, p, o.x, o.spatial,
         o.channel, o.y);
}

template <class T, class Op>
void backward_generic(const Problem& p, const Operands& operands, Stream stream) {
  const Typed<T> o(operands);
  if (o.grad_x)
    launch(generic_grad_x<T, Op>, grid_of(blocks_for(p.batch * p.channels * p.height * p.width)),
           dim3(kGenericThreads), 0, stream, p, o.spatial, o.channel, o.grad, o.grad_x);
  if constexpr (Op::kSpatial)
    if (o.grad_spatial) {
      const int64_t elements = p.batch * p.groups * p.taps() * p.rows * p.cols * p.scale * p.scale;
      launch(generic_grad_spatial<T, Op>, grid_of(blocks_for(elements)), dim3(kGenericThreads), 0, stream, p, o.x,
             o.channel, o.grad, o.grad_spatial);
    }
  if constexpr (Op::kChannel)
    if (o.grad_channel)
      launch(generic_grad_channel<T, Op>, grid_of(p.batch * p.channels * p.taps() * p.phases), dim3(kReduceThreads),
             kReduceThreads / 32 * sizeof(Accumulator<T>), stream, p, o.x, o.spatial, o.grad, o.grad_channel);
}

}  // namespace dynfilters::cuda
