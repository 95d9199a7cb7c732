// The passes, for any storage type. Each runs the tasks [begin, end) of blocks.count·batch.
#pragma once
#include <cstdint>

#include "../filter2d.h"

namespace dynfilters::cpu {

enum class Storage : int32_t { kFloat64, kFloat32, kBFloat16, kFloat16 };

struct Blocks {
  int64_t rows, count;  // rows in a block, blocks in a sample
};

struct Operands {
  const void *x, *grad, *spatial, *channel;
  void *y, *grad_x, *grad_spatial;
  void* partial;  // (blocks of all samples, channels, phases, taps), of the accumulation type
};

// pixels: x and y have their channels side by side. rows: of windows, or of x for grad_x.
Blocks blocks_of(const Problem& p, bool pixels, int64_t rows, int64_t element_bytes);
void forward(const Problem& p, Storage storage, bool pixels, const Operands& o, Blocks blocks, int64_t begin, int64_t end);
void grad_x(const Problem& p, Storage storage, bool pixels, const Operands& o, Blocks blocks, int64_t begin, int64_t end);
void grad_taps(const Problem& p, Storage storage, bool pixels, const Operands& o, Blocks blocks, int64_t begin, int64_t end);

}  // namespace dynfilters::cpu
