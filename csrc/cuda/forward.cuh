// Which kernel runs forward.
#pragma once
#include "../dispatch.h"
#include "direct_forward.cuh"
#include "generic_launch.cuh"
#include "limits.cuh"
#include "pixels_forward.cuh"
#include "staged_forward.cuh"

namespace dynfilters::cuda {

template <class T, class Op>
void forward_for(const Problem& p, const Operands& o, Stream stream) {
  bool done = false;
  if constexpr (sizeof(T) <= 4) {
    if (!is_small(p)) return forward_generic<T, Op>(p, o, stream);
    if (can_stage_forward<T>(p, o)) return forward_staged<T, Op>(p, o, stream);
    with_kernel(p, [&](auto kernel) {
      constexpr int k = decltype(kernel)::kw;
      if constexpr (k) {
        done = true;
        if (can_forward_pixels<T>(p, o)) return forward_pixels<T, Op, k>(p, o, stream);
        forward_direct<T, Op, k>(p, o, stream);
      }
    });
  }
  if (!done) forward_generic<T, Op>(p, o, stream);
}

inline void forward_on(const Problem& p, Storage storage, const Operands& o, Stream stream) {
  if (!p.batch) return;
  with_storage(storage, [&](auto type) {
    with_combine(p.combine, [&](auto op) {
      forward_for<typename decltype(type)::type, decltype(op)>(p, o, stream);
    });
  });
}

}  // namespace dynfilters::cuda
