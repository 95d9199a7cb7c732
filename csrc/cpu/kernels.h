// The passes, for any storage type and memory format, as the boundary to torch and they themselves call one another.
#pragma once
#include "../activation.h"
#include "plan.h"
#include "storage.h"

namespace dynfilters::cpu {

inline const void* at(const void* base, int64_t bytes) { return static_cast<const char*>(base) + bytes; }
inline void* at(void* base, int64_t bytes) { return static_cast<char*>(base) + bytes; }

struct Operands {
  const void *x, *grad, *spatial;
  const void* channel;              // of the accumulation type
  void *y, *grad_x, *grad_spatial;  // null: not wanted
  Activation activation;            // of spatial
  void* partial;                    // (tasks, channels, phases, taps), of the accumulation type; null: not wanted
  int64_t threads;                  // that share the work
};

// y; tasks are the tiles of all samples. False: the algorithm cannot serve these values, and what was written is not to
// be used.
bool forward(const Filter2dParams& p, Storage storage, const Operands& o, const Plan& plan, Worker& worker);
// The gradients wanted; tasks are runs of tiles, `chunks` to a sample.
bool backward(const Filter2dParams& p, Storage storage, const Operands& o, const Plan& plan, int64_t chunks,
              Worker& worker);
// Both by vectors of channels (kPixels, kTransposed); not for float64.
bool forward_pixels(const Filter2dParams& p, Storage storage, const Operands& o, const Plan& plan, Worker& worker);
bool backward_pixels(const Filter2dParams& p, Storage storage, const Operands& o, const Plan& plan, int64_t chunks,
                     Worker& worker);
// The gradient of channel for samples [begin, end): the sums of its chunks, added up in order.
void reduce_channel(const Filter2dParams& p, const void* partial, int64_t chunks, bool is_double, void* out,
                    int64_t begin, int64_t end);

// Channel taps that are not finite: a window outside the grid adds no term to the gradient of x, where the passes add
// zero times the tap, which is NaN. The planes of channels with such a tap are computed again, by the formula.

// Whether all channel taps of samples [begin, end) are finite.
bool channel_is_finite(const Filter2dParams& p, Storage storage, const Operands& o, int64_t begin, int64_t end);
// The gradient of x in the channels with a nonfinite tap, of samples [begin, end). Each element is summed in one order,
// by one task.
void grad_x_nonfinite(const Filter2dParams& p, Storage storage, const Operands& o, int64_t begin, int64_t end);

}  // namespace dynfilters::cpu
