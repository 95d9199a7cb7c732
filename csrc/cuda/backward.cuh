// Which kernels run backward.
#pragma once
#include "../dispatch.h"
#include "direct_backward.cuh"
#include "limits.cuh"

namespace dynfilters::cuda {

// One pass gives all gradients where each tap of x belongs to one output.
inline bool in_one_pass(const Problem& p, Storage storage) {
  const bool square = p.kh == p.kw && (p.kh == 3 || p.kh == 5 || p.kh == 7);
  return storage != Storage::kFloat64 && square && p.stride == 1 && p.scale == 1 && is_small(p);
}

template <class T, class Op>
void backward_for(const Problem& p, Storage storage, const Operands& o, Stream stream) {
  if constexpr (sizeof(T) <= 4)
    if (in_one_pass(p, storage))
      return with_kernel(p, [&](auto kernel) {
        constexpr int k = decltype(kernel)::kw;
        if constexpr (k) backward_direct<T, Op, k>(p, o, stream);
      });
  backward_generic<T, Op>(p, o, stream);
}

inline void backward_on(const Problem& p, Storage storage, const Operands& o, Stream stream) {
  if (!p.batch) return;
  with_storage(storage, [&](auto type) {
    with_combine(p.combine, [&](auto op) {
      backward_for<typename decltype(type)::type, decltype(op)>(p, storage, o, stream);
    });
  });
}

inline size_t workspace_needed(const Problem& p, Storage storage, const Operands& o) {
  if (!p.batch || !in_one_pass(p, storage)) return 0;
  const Work work = direct_backward_work(p);
  return partial_elements(p, o, work.splits, work.tiles);
}

}  // namespace dynfilters::cuda
