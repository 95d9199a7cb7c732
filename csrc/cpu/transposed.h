// Small dense planes turned over, sample by sample, so that the passes for vectors of channels can read and write
// pixels where they are. Of float32.
#pragma once
#include "kernels.h"
#include "transpose.h"

namespace dynfilters::cpu {

// Forward or backward of turned samples, of which one at a time is here: (pixels, channels).
class TransposedSamples {
 public:
  TransposedSamples(const Filter2dParams& given_params, const Operands& given)
      : p(given_params), o(given), given(given) {
    const int64_t size = pixels * pitch();
    room.resize((given.grad_x ? 3 : 2) * size);
    x = room.data(), of_y = x + size;
    o.x = x;
    if (given.y) o.y = of_y;
    if (given.grad) o.grad = of_y;
    if (given.grad_x) o.grad_x = grad_x = of_y + size;
    for (auto strides : {p.xs, p.ys, p.gs})
      strides[0] = 0, strides[1] = 1, strides[2] = p.width * pitch(), strides[3] = pitch();
  }
  // What the passes take for the given ones.
  const Filter2dParams& params() const { return p; }
  const Operands& operands() const { return o; }

  void begin(int64_t b) {
    if (given.y || given.grad_spatial || given.partial) read(given.x, b, x);
    if (given.grad) read(given.grad, b, of_y);
  }
  void end(int64_t b) const {
    if (given.y) write(of_y, b, given.y);
    if (given.grad_x) write(grad_x, b, given.grad_x);
  }

 private:
  Filter2dParams p;
  Operands o;
  const Operands given;
  const int64_t pixels = p.height * p.width;
  Buffer<float> room;
  float *x, *of_y, *grad_x = nullptr;  // of_y: y, or its gradient

  // A vector more than there are channels: pixels a power of two apart would drive each other out of L1.
  int64_t pitch() const { return p.channels + kLanes<float>; }
  void read(const void* tensor, int64_t b, float* to) const {
    const float* planes = static_cast<const float*>(tensor) + b * p.channels * pixels;
    transpose_matrix(planes, p.channels, pixels, pixels, to, pitch());
  }
  void write(const float* from, int64_t b, void* tensor) const {
    float* planes = static_cast<float*>(tensor) + b * p.channels * pixels;
    transpose_matrix(from, pixels, p.channels, pitch(), planes, pixels);
  }
};

// Samples that are read and written where they are.
struct SamplesInPlace {
  void begin(int64_t) const {}
  void end(int64_t) const {}
};

}  // namespace dynfilters::cpu
