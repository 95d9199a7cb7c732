// The passes, for any storage type and layout.
#pragma once
#include "../activation.h"
#include "storage.h"
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
};

// y, for the tiles [begin, end) of all samples. False: the way cannot serve these values, and
// what was written is not to be used.
bool forward(const Problem& p, Storage storage, const Operands& o, const Route& route, int64_t begin, int64_t end);
// The gradients wanted, for the tasks [begin, end): `chunks` to a sample, runs of its tiles.
bool backward(const Problem& p, Storage storage, const Operands& o, const Route& route, int64_t chunks, int64_t begin,
              int64_t end);
// The part of both for vectors of channels; not for float64.
bool forward_pixels(const Problem& p, Storage storage, const Operands& o, const Route& route, int64_t begin,
                    int64_t end);
bool backward_pixels(const Problem& p, Storage storage, const Operands& o, const Route& route, int64_t chunks,
                     int64_t begin, int64_t end);
// Adds up, in order, what the chunks found for the gradient of channel; for samples [begin, end).
void reduce_channel(const Problem& p, const void* partial, int64_t chunks, bool is_double, void* out, int64_t begin,
                    int64_t end);

}  // namespace dynfilters::cpu
