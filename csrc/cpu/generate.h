// The passes that generate taps. Sums are in the accumulation type and in one order, whatever the number of threads.
#pragma once
#include "../generate.h"
#include "storage.h"

namespace dynfilters::cpu {

// How many tiles the positions of a sample are cut into.
int64_t tiles_of(const GenerateParams& p);
// The logits, and sums for the mean, of the tiles [begin, end) of all samples: over the positions of a tile. Every
// element of x is read from memory once. partial: (batch, tiles, channels).
void pool_project(const GenerateParams& p, const GenerateOperands& o, Storage storage, int64_t begin, int64_t end);
// The mean of samples [begin, end), from the sums of their tiles, in their order.
void pool_project_mean(const GenerateParams& p, const GenerateOperands& o, Storage storage, int64_t begin, int64_t end);

// A fully connected layer of a few samples: y = W·x + b, with a ReLU behind it if `relu`. Sums are over the inputs in
// their order.
struct FullyConnected {
  int64_t batch, inputs, outputs;
  bool relu;
  // All contiguous.
  const void* x;       // (batch, inputs)
  const void* weight;  // (outputs, inputs)
  const void* bias;    // (outputs); null: none
  void* y;             // (batch, outputs)
  int64_t blocks() const { return (outputs + kBlock - 1) / kBlock; }

  static constexpr int64_t kBlock = 32;  // outputs: whole pairs of vectors, on any machine
};

// The outputs of the blocks [begin, end), of all samples.
void fully_connected(const FullyConnected& p, Storage storage, int64_t begin, int64_t end);

}  // namespace dynfilters::cpu
