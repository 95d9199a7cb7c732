// Backward: which algorithm runs, and its launch.
#include "algorithm.cuh"
#include "direct.cuh"
#include "generic.cuh"
#include "pixels.cuh"
#include "staged.cuh"

namespace dynfilters::cuda {

namespace {

// One pass gives all gradients where each tap of x belongs to one output.
template <class T>
Algorithm backward_algorithm(const Filter2dParams& p, const Operands& o) {
  if (sizeof(T) > 4 || !has_fixed_kernel(p) || p.stride > 1 || p.scale > 1 || !is_small(p)) return Algorithm::kGeneric;
  if (can_stage_backward<T>(p, o)) return Algorithm::kStaged;
  return can_backward_pixels<T>(p, o) ? Algorithm::kPixels : Algorithm::kDirect;
}

Parts parts_of(Algorithm algorithm, const Filter2dParams& p) {
  if (algorithm == Algorithm::kGeneric) return {1, 1};
  if (algorithm == Algorithm::kPixels) return {1, pixels_backward_work(p).tiles};
  const Work work = algorithm == Algorithm::kStaged ? staged_backward_work(p) : direct_backward_work(p);
  return {work.splits, work.tiles};
}

// All but the generic kernels hold the channel taps of a filter, but their gradients are found later.
NeededStatistics backward_statistics(Algorithm algorithm, const Operands& o) {
  return {needs_statistics(o.spatial_activation),
          (algorithm == Algorithm::kGeneric || o.grad_channel || o.grad_std) && needs_statistics(o.channel_activation)};
}

template <class T, class Op>
void backward_for(Algorithm algorithm, const Filter2dParams& p, const Operands& o, Stream stream) {
  if constexpr (sizeof(T) <= 4) {
    if (algorithm == Algorithm::kStaged) return backward_staged<T, Op>(p, o, stream);
    if (algorithm == Algorithm::kPixels) return backward_pixels<T, Op>(p, o, stream);
  }
  backward_generic<T, Op>(p, o, stream);
}

}  // namespace

void backward(const Filter2dParams& p, Storage storage, const Operands& operands, void* enqueued_on) {
  const auto stream = static_cast<Stream>(enqueued_on);
  if (!p.batch) return finish_taps(p, storage, operands, {1, 1}, stream);  // channel_std has no batch
  with_storage(storage, [&](auto type) {
    using T = typename decltype(type)::type;
    const Algorithm algorithm = backward_algorithm<T>(p, operands);
    const Operands o = prepare_taps(p, storage, operands, backward_statistics(algorithm, operands), stream);
    if (algorithm == Algorithm::kDirect)
      backward_direct_on(p, storage, o, stream);
    else
      with_combine(p.combine, [&](auto op) { backward_for<T, decltype(op)>(algorithm, p, o, stream); });
    finish_taps(p, storage, o, parts_of(algorithm, p), stream);
  });
}

size_t backward_workspace(const Filter2dParams& p, Storage storage, const Operands& o) {
  size_t elements = 0;
  if (!p.batch) return elements;
  with_storage(storage, [&](auto type) {
    using T = typename decltype(type)::type;
    const Algorithm algorithm = backward_algorithm<T>(p, o);
    elements =
        statistics_elements(p, backward_statistics(algorithm, o)) + partial_elements<T>(p, o, parts_of(algorithm, p));
  });
  return elements;
}

}  // namespace dynfilters::cuda
