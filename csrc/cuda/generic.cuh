// The kernels that are right for everything: any odd kernel, groups, stride, dilation, scale,
// phases and strides of the tensors. A thread computes one element of an output at a time; for the
// gradient of channel, a block does.
//
// Accumulation: in the accumulation type, taps in row-major order; grad_spatial over the channels
// of its group in their order. grad_channel: each thread every 128th position, then a butterfly in
// each warp, then the warps in their order. All sums have one order whatever the device: results
// are deterministic. Every element is written once; nothing is read from what a kernel writes.
#pragma once
#include "operands.cuh"
#include "work.cuh"

namespace dynfilters::cuda {

constexpr int kReduceThreads = 128;

// Element i of a 4-d array, counted in rows of pixels or, as channels_last memory lies, in pixels.
struct Element {
  int64_t b, c, y, x;
  __device__ __forceinline__ Element(int64_t i, int64_t channels, int64_t height, int64_t width, bool channels_last) {
    if (channels_last) c = i % channels, i /= channels;
    x = i % width, i /= width;
    y = i % height, i /= height;
    if (!channels_last) c = i % channels, i /= channels;
    b = i;
  }
  __device__ __forceinline__ int64_t offset(const int64_t (&strides)[4]) const {
    return b * strides[0] + c * strides[1] + y * strides[2] + x * strides[3];
  }
};

// The operands of one call, element by element.
template <class T, class Op>
struct Elements {
  using A = Accumulator<T>;
  const Filter2dParams& p;
  const RawTaps<T>& raw;
  const T *x, *grad;

  __device__ __forceinline__ A spatial_tap(int64_t b, int64_t g, int64_t k, int64_t oy, int64_t ox) const {
    if constexpr (!Op::kSpatial) return A(0);
    const A tap = read(raw.spatial + b * p.ss[0] + g * p.ss[1] + k * p.ss[2] + oy * p.ss[3] + ox * p.ss[4]);
    return raw.of_spatial.finish_at(tap, ((b * p.groups + g) * p.rows * p.scale + oy) * p.cols * p.scale + ox);
  }
  __device__ __forceinline__ A channel_tap(int64_t b, int64_t c, int64_t k, int64_t oy, int64_t ox) const {
    if constexpr (!Op::kChannel) return A(0);
    const int64_t phase = p.channel_phases > 1 ? oy % p.scale * p.scale + ox % p.scale : 0;
    const A tap = read(raw.channel + b * p.cs[0] + c * p.cs[1] + k * p.cs[2] + phase * p.cs[3]);
    return raw.of_channel.finish_at(tap, (b * p.channels + c) * p.channel_phases + phase) *
           raw.std_at(c, k, int(p.kh * p.kw), phase);
  }
  __device__ __forceinline__ A tap(int64_t b, int64_t c, int64_t k, int64_t oy, int64_t ox) const {
    return Op::tap(spatial_tap(b, c / (p.channels / p.groups), k, oy, ox), channel_tap(b, c, k, oy, ox));
  }
  // x under tap (ky, kx) of output (oy, ox); zero outside.
  __device__ __forceinline__ A under(int64_t b, int64_t c, int64_t ky, int64_t kx, int64_t oy, int64_t ox) const {
    const int64_t iy = oy / p.scale * p.stride + p.dilation * (ky - p.kh / 2);
    const int64_t ix = ox / p.scale * p.stride + p.dilation * (kx - p.kw / 2);
    if (iy < 0 || ix < 0 || iy >= p.height || ix >= p.width) return A(0);
    return read(x + b * p.xs[0] + c * p.xs[1] + iy * p.xs[2] + ix * p.xs[3]);
  }
  __device__ __forceinline__ A gradient(int64_t b, int64_t c, int64_t oy, int64_t ox) const {
    return read(grad + b * p.ys[0] + c * p.ys[1] + oy * p.ys[2] + ox * p.ys[3]);
  }
};

template <class T, class Op>
__global__ void __launch_bounds__(kGenericThreads) generic_forward(Filter2dParams p, const T* x, RawTaps<T> raw, T* y) {
  const Elements<T, Op> in{p, raw, x, nullptr};
  const int64_t height = p.rows * p.scale, width = p.cols * p.scale;
  for (int64_t i = first_element(); i < p.batch * p.channels * height * width; i += element_step()) {
    const Element at(i, p.channels, height, width, p.ys[1] == 1);
    Accumulator<T> total = 0;
    for (int64_t ky = 0; ky < p.kh; ++ky)
      for (int64_t kx = 0; kx < p.kw; ++kx)
        total += in.tap(at.b, at.c, ky * p.kw + kx, at.y, at.x) * in.under(at.b, at.c, ky, kx, at.y, at.x);
    y[at.offset(p.ys)] = from_acc<T>(total);
  }
}

// Along one axis: the window whose tap k lies on pixel i, or -1.
__device__ __forceinline__ int64_t window_of(int64_t i, int64_t k, int64_t kernel, int64_t windows,
                                             const Filter2dParams& p) {
  const int64_t start = i - p.dilation * (k - kernel / 2), window = start / p.stride;
  return start < 0 || start % p.stride || window >= windows ? -1 : window;
}

template <class T, class Op>
__global__ void __launch_bounds__(kGenericThreads)
    generic_grad_x(Filter2dParams p, RawTaps<T> raw, const T* grad, T* grad_x) {
  const Elements<T, Op> in{p, raw, nullptr, grad};
  for (int64_t i = first_element(); i < p.batch * p.channels * p.height * p.width; i += element_step()) {
    const Element at(i, p.channels, p.height, p.width, p.gs[1] == 1);
    Accumulator<T> total = 0;
    for (int64_t k = 0; k < p.kh * p.kw; ++k) {
      const int64_t wy = window_of(at.y, k / p.kw, p.kh, p.rows, p), wx = window_of(at.x, k % p.kw, p.kw, p.cols, p);
      if (wy < 0 || wx < 0) continue;
      for (int64_t oy = wy * p.scale; oy < (wy + 1) * p.scale; ++oy)
        for (int64_t ox = wx * p.scale; ox < (wx + 1) * p.scale; ++ox)
          total += in.tap(at.b, at.c, k, oy, ox) * in.gradient(at.b, at.c, oy, ox);
    }
    grad_x[at.offset(p.gs)] = from_acc<T>(total);
  }
}

template <class T, class Op>
__global__ void __launch_bounds__(kGenericThreads)
    generic_grad_spatial(Filter2dParams p, const T* x, RawTaps<T> raw, const T* grad, Target<T> to) {
  const Elements<T, Op> in{p, raw, x, grad};
  const int64_t height = p.rows * p.scale, width = p.cols * p.scale, taps = p.kh * p.kw;
  const int64_t group_channels = p.channels / p.groups;
  for (int64_t i = first_element(); i < p.batch * p.groups * taps * height * width; i += element_step()) {
    const Element at(i, p.groups * taps, height, width, false);
    const int64_t g = at.c / taps, k = at.c % taps;
    Accumulator<T> total = 0;
    for (int64_t c = g * group_channels; c < (g + 1) * group_channels; ++c) {
      const auto product = in.gradient(at.b, c, at.y, at.x) * in.under(at.b, c, k / p.kw, k % p.kw, at.y, at.x);
      total += Op::d_spatial(product, in.channel_tap(at.b, c, k, at.y, at.x));
    }
    to.put(0, i, total);
  }
}

// The sum over the block, for its first thread. `warps` holds a value of every warp.
template <class A>
__device__ __forceinline__ A block_sum(A value, A* warps) {
#pragma unroll
  for (int mask = 16; mask; mask /= 2) value += shuffle_xor(value, mask);
  sync_block();  // the last sum has been read
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
  sync_block();
  value = warps[0];
  for (int i = 1; i < int(blockDim.x) / 32; ++i) value += warps[i];
  return value;
}

template <class T, class Op>
__global__ void __launch_bounds__(kReduceThreads)
    generic_grad_channel(Filter2dParams p, const T* x, RawTaps<T> raw, const T* grad, Target<T> to) {
  using A = Accumulator<T>;
  const Elements<T, Op> in{p, raw, x, grad};
  const int64_t taps = p.kh * p.kw, side = p.channel_phases > 1 ? p.scale : 1;  // phases along an axis
  const int64_t height = p.rows * p.scale / side, width = p.cols * p.scale / side;
  for (int64_t i = blockIdx.x; i < p.batch * p.channels * taps * p.channel_phases; i += gridDim.x) {
    const int64_t phase = i % p.channel_phases, k = i / p.channel_phases % taps,
                  c = i / p.channel_phases / taps % p.channels;
    const int64_t b = i / p.channel_phases / taps / p.channels, g = c / (p.channels / p.groups);
    A total = 0;
    for (int64_t j = threadIdx.x; j < height * width; j += blockDim.x) {
      const int64_t oy = j / width * side + phase / side, ox = j % width * side + phase % side;
      const A product = in.gradient(b, c, oy, ox) * in.under(b, c, k / p.kw, k % p.kw, oy, ox);
      total += Op::d_channel(product, in.spatial_tap(b, g, k, oy, ox));
    }
    total = block_sum(total, shared_memory<A>());
    if (threadIdx.x == 0) to.put(0, i, total);
  }
}

// ---- launches ----

template <class T, class Op>
void forward_generic(const Filter2dParams& p, const Operands& operands, Stream stream) {
  const Typed<T> o(operands);
  const int64_t outputs = p.batch * p.channels * p.rows * p.cols * p.scale * p.scale;
  launch(generic_forward<T, Op>, grid_of(blocks_for(outputs)), dim3(kGenericThreads), 0, stream, p, o.x, o.raw,
         o.y);
}

template <class T, class Op>
void backward_generic(const Filter2dParams& p, const Operands& operands, Stream stream) {
  const Typed<T> o(operands);
  const TapTargets<T> to = tap_targets<T>(p, operands, {1, 1});
  if (o.grad_x)
    launch(generic_grad_x<T, Op>, grid_of(blocks_for(p.batch * p.channels * p.height * p.width)),
           dim3(kGenericThreads), 0, stream, p, o.raw, o.grad, o.grad_x);
  if constexpr (Op::kSpatial)
    if (to.spatial.is_wanted())
      launch(generic_grad_spatial<T, Op>, grid_of(blocks_for(to.spatial.elements)), dim3(kGenericThreads), 0, stream, p,
             o.x, o.raw, o.grad, to.spatial);
  if constexpr (Op::kChannel)
    if (to.channel.is_wanted())
      launch(generic_grad_channel<T, Op>, grid_of(to.channel.elements), dim3(kReduceThreads),
             kReduceThreads / 32 * sizeof(Accumulator<T>), stream, p, o.x, o.raw, o.grad, to.channel);
}

}  // namespace dynfilters::cuda
