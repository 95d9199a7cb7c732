// Channel taps that are not finite, in the gradient of x: a window that is not there adds no term to it, where
// the passes add zero times the tap, which is NaN. The planes of such channels are computed again, by the formula.
#pragma once
#include "kernels.h"

namespace dynfilters::cpu {

// Whether all channel taps of samples [begin, end) are finite.
bool channel_is_finite(const Filter2dParams& p, Storage storage, const Operands& o, int64_t begin, int64_t end);
// The gradient of x in the channels of samples [begin, end) that have a tap that is not. Each element is summed in
// one order, by one task.
void grad_x_nonfinite(const Filter2dParams& p, Storage storage, const Operands& o, int64_t begin, int64_t end);

}  // namespace dynfilters::cpu
