// Which kernels run backward.
#pragma once
#include "../dispatch.h"
#include "generic_launch.cuh"

namespace dynfilters::cuda {

inline void backward_on(const Problem& p, Storage storage, const Operands& o, Stream stream) {
  if (!p.batch) return;
  with_storage(storage, [&](auto type) {
    using T = typename decltype(type)::type;
    with_combine(p.combine, [&](auto op) { backward_generic<T, decltype(op)>(p, o, stream); });
  });
}

inline size_t workspace_needed(const Problem&, Storage, const Operands&) { return 0; }

}  // namespace dynfilters::cuda
