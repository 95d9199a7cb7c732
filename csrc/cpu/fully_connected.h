// A fully connected layer of a few samples: y = W·x + b, or what is positive of it.
//
// Sums are in the accumulation type, over the inputs in their order, whatever the number of threads.
#pragma once
#include "storage.h"

namespace dynfilters::cpu {

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
