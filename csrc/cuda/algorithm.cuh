// Which algorithms there are, and what one unit of the library launches for another.
#pragma once
#include "operands.cuh"

namespace dynfilters::cuda {

enum class Algorithm { kGeneric, kDirect, kStaged, kPixels };

// Not for kFloat64, and only for kernels of 3, 5 and 7: see backward_algorithm.
void backward_direct_on(const Filter2dParams& p, Storage storage, const Operands& o, Stream stream);

// The taps whose statistics kernels read from memory, because they do not hold all taps of a filter.
struct NeededStatistics {
  bool spatial, channel;
};

inline bool needs_statistics(const Activation& how) { return !how.is_elementwise(); }

// In elements of the accumulation type.
size_t statistics_elements(const Filter2dParams& p, const NeededStatistics& needed);

// Leaves the statistics at the front of the workspace. Returns `o` with pointers to them, and the
// rest of the workspace.
Operands prepare_taps(const Filter2dParams& p, Storage storage, const Operands& o, const NeededStatistics& needed,
                      Stream stream);

// From the parts of the gradients of taps the gradients themselves: the last step backward.
void finish_taps(const Filter2dParams& p, Storage storage, const Operands& o, const Parts& parts, Stream stream);

}  // namespace dynfilters::cuda
