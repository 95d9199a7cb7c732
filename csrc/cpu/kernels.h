// The passes, for any storage type and layout.
#pragma once
#include "../activation.h"
#include "storage.h"
#include "tasks.h"
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
bool forward(const Problem& p, Storage storage, const Operands& o, const Route& route, Share& share);
// The gradients wanted; tasks are runs of tiles, `chunks` to a sample.
bool backward(const Problem& p, Storage storage, const Operands& o, const Route& route, int64_t chunks, Share& share);
// The part of both for vectors of channels; not for float64.
bool forward_pixels(const Problem& p, Storage storage, const Operands& o, const Route& route, Share& share);
bool backward_pixels(const Problem& p, Storage storage, const Operands& o, const Route& route, int64_t chunks,
                     Share& share);
// Adds up, in order, what the chunks found for the gradient of channel; for samples [begin, end).
void reduce_channel(const Problem& p, const void* partial, int64_t chunks, bool is_double, void* out, int64_t begin,
                    int64_t end);

}  // namespace dynfilters::cpu
