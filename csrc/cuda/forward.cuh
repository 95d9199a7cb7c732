// Which kernel runs forward.
#pragma once
#include "../dispatch.h"
#include "generic_launch.cuh"

namespace dynfilters::cuda {

inline void forward_on(const Problem& p, Storage storage, const Operands& o, Stream stream) {
  if (!p.batch) return;
  with_storage(storage, [&](auto type) {
    using T = typename decltype(type)::type;
    with_combine(p.combine, [&](auto op) { forward_generic<T, decltype(op)>(p, o, stream); });
  });
}

}  // namespace dynfilters::cuda
