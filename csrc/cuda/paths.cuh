// What one unit of the library launches for another.
#pragma once
#include "kernels.h"
#include "primitives.cuh"

namespace dynfilters::cuda {

// Not for kFloat64, and only for kernels of 3, 5 and 7: see backward_path.
void backward_direct_on(const Problem& p, Storage storage, const Operands& o, Stream stream);

}  // namespace dynfilters::cuda
