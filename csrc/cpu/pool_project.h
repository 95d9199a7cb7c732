// Logits and mean of a 1×1 convolution and a global average, in one pass over x.
//
// Sums are in the accumulation type and in one order, whatever the number of threads: over the
// positions of a tile, then over tiles. Every element of x is read from memory once.
#pragma once
#include "storage.h"

namespace dynfilters::cpu {

// x and logits are dense, both (batch, channels, positions) or both (batch, positions, channels).
struct PoolProject {
  int64_t batch, channels, outputs, positions;
  bool pixels;  // the latter
  const void* x;
  const void* weight;  // (outputs, channels)
  const void* bias;    // (outputs); null: none
  void* logits;
  void* mean;     // (batch, channels)
  void* partial;  // (batch, tiles, channels), of the accumulation type
};

int64_t tiles_of(const PoolProject& p);
// The logits, and sums for the mean, of the tiles [begin, end) of all samples.
void pool_project(const PoolProject& p, Storage storage, int64_t begin, int64_t end);
// The mean of samples [begin, end), from the sums of their tiles.
void pool_project_mean(const PoolProject& p, Storage storage, int64_t begin, int64_t end);

}  // namespace dynfilters::cpu
