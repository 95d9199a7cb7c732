#include "../filter2d.h"
#include "backward_pixels.h"
#include "select.h"
#include "transposed.h"

namespace dynfilters::cpu {

namespace {

// What was written past the caches is there for every thread that is told to go on.
inline void fence() {
#if defined(__AVX512F__)
  _mm_sfence();
#endif
}

template <class A>
Image<A> image_of(const Filter2dParams& p, const Access<A>& io, const int64_t (&strides)[4], bool of_y) {
  return {io,
          {strides[0], strides[1], strides[2], strides[3]},
          of_y ? p.rows * p.scale : p.height,
          of_y ? p.cols * p.scale : p.width,
          {p.groups, p.group_channels(), kLanes<A>}};
}

// samples.begin(b) and samples.end(b) are called before and after a tile of sample b, if they do anything: then a
// sample is one tile.
template <class T, class Samples>
void run_forward(const Filter2dParams& p, const AccessTo<T>& io, const Operands& o, const Tiles& tiles, Worker& worker,
                 Samples&& samples) {
  using A = Accumulator<T>;
  BlockKernels<A> kernels{};
  with_combine(p.combine, [&](auto op) { kernels = block_kernels<A, decltype(op)>(window_of(p), tiles.cols); });
  PixelPass<T> pass(p, o, io, sum_for_y<A>(p), kernels, image_of<A>(p, io, p.xs, false), o.x,
                    image_of<A>(p, io, p.ys, true), o.y);
  do {
    const int64_t task = worker.task();
    samples.begin(task / tiles.count());
    pass.run(tiles, task, worker.goes_on());
    samples.end(task / tiles.count());
  } while (worker.next());
}

template <class T, class Samples>
void run_backward(const Filter2dParams& p, const AccessTo<T>& io, const Operands& o, const Tiles& tiles, int64_t chunks,
                  Worker& worker, Samples&& samples) {
  using A = Accumulator<T>;
  BlockKernels<A> kernels{};
  TapSumKernel<A> tap_sum_kernel = nullptr;
  with_combine(p.combine, [&](auto op) {
    kernels = block_kernels<A, decltype(op)>(window_of(p), tiles.cols);
    tap_sum_kernel = tap_sum_kernel_for<A, decltype(op)>(window_of(p));
  });
  const auto of_x = image_of<A>(p, io, p.xs, false), of_y = image_of<A>(p, io, p.ys, true);
  PixelPass<T> grad_x(p, o, io, sum_for_x<A>(p), kernels, of_y, o.grad, image_of<A>(p, io, p.gs, false), o.grad_x);
  TapGradientPass<T> grad_taps(p, o, io, tap_sum_kernel, of_x, of_y);
  A* partial = static_cast<A*>(o.partial);
  const int64_t count = tiles.count();
  const auto first_of = [&](int64_t task) { return task / chunks * count + count * (task % chunks) / chunks; };
  do {
    const int64_t task = worker.task();
    samples.begin(task / chunks);
    grad_taps.begin_sample(task / chunks);
    for (int64_t t = first_of(task); t < first_of(task + 1); ++t) {
      if (o.grad_x) grad_x.run(tiles, t, t + 1 < first_of(task + 1) || worker.goes_on());
      if (o.grad_spatial || partial) grad_taps.run(tiles.at(p, t % count));
    }
    if (partial) grad_taps.unpack(partial + task * p.channels * p.channel_phases * p.taps());
    samples.end(task / chunks);
  } while (worker.next());
}

}  // namespace

bool forward_pixels(const Filter2dParams& p, Storage storage, const Operands& o, const Plan& plan, Worker& worker) {
  if (plan.algorithm == Algorithm::kTransposed) {
    TransposedSamples samples(p, o);
    run_forward(samples.params(), AccessTo<float>(), samples.operands(), plan.tiles, worker, samples);
  } else {
    with_short_access(storage, [&](auto io) { run_forward(p, io, o, plan.tiles, worker, SamplesInPlace()); });
  }
  fence();
  return true;
}

bool backward_pixels(const Filter2dParams& p, Storage storage, const Operands& o, const Plan& plan, int64_t chunks,
                     Worker& worker) {
  if (plan.algorithm == Algorithm::kTransposed) {
    TransposedSamples samples(p, o);
    run_backward(samples.params(), AccessTo<float>(), samples.operands(), plan.tiles, chunks, worker, samples);
  } else {
    with_short_access(storage, [&](auto io) { run_backward(p, io, o, plan.tiles, chunks, worker, SamplesInPlace()); });
  }
  fence();
  return true;
}

}  // namespace dynfilters::cpu
