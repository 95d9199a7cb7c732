// The passes, for any storage type and layout.
#pragma once
#include "../activation.h"
#include "storage.h"
#include "work_queue.h"
#include "tiles.h"

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

// y; tasks are the tiles of all samples. False: the way cannot serve these values, and what was
// written is not to be used.
bool forward(const Filter2dParams& p, Storage storage, const Operands& o, const Plan& plan, Worker& worker);
// The gradients wanted; tasks are runs of tiles, `chunks` to a sample.
bool backward(const Filter2dParams& p, Storage storage, const Operands& o, const Plan& plan, int64_t chunks,
              Worker& worker);
// The part of both for vectors of channels; not for float64.
bool forward_pixels(const Filter2dParams& p, Storage storage, const Operands& o, const Plan& plan, Worker& worker);
bool backward_pixels(const Filter2dParams& p, Storage storage, const Operands& o, const Plan& plan, int64_t chunks,
                     Worker& worker);
// Adds up, in order, what the chunks found for the gradient of channel; for samples [begin, end).
void reduce_channel(const Filter2dParams& p, const void* partial, int64_t chunks, bool is_double, void* out,
                    int64_t begin, int64_t end);

}  // namespace dynfilters::cpu
