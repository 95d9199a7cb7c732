// Forward: which algorithm runs, and its launch.
#include "algorithm.cuh"
#include "direct.cuh"
#include "generic.cuh"
#include "pixels.cuh"
#include "staged.cuh"

namespace dynfilters::cuda {

namespace {

template <class T>
Algorithm forward_algorithm(const Filter2dParams& p, const Operands& o) {
  if (sizeof(T) > 4 || !is_small(p)) return Algorithm::kGeneric;
  if (can_stage_forward<T>(p, o)) return Algorithm::kStaged;
  if (!has_fixed_kernel(p)) return Algorithm::kGeneric;
  return can_forward_pixels<T>(p, o) ? Algorithm::kPixels : Algorithm::kDirect;
}

// Direct and staged kernels hold all taps of a filter.
NeededStatistics forward_statistics(Algorithm algorithm, const Operands& o) {
  const bool generic = algorithm == Algorithm::kGeneric;
  return {(generic || algorithm == Algorithm::kPixels) && needs_statistics(o.spatial_activation),
          generic && needs_statistics(o.channel_activation)};
}

template <class T, class Op>
void forward_for(Algorithm algorithm, const Filter2dParams& p, const Operands& o, Stream stream) {
  if constexpr (sizeof(T) <= 4) {
    if (algorithm == Algorithm::kStaged) return forward_staged<T, Op>(p, o, stream);
    if (algorithm != Algorithm::kGeneric)
      return with_kernel(p, [&](auto kernel) {
        constexpr int k = decltype(kernel)::kw;
        if constexpr (k) {
          if (algorithm == Algorithm::kPixels) return forward_pixels<T, Op, k>(p, o, stream);
          forward_direct<T, Op, k>(p, o, stream);
        }
      });
  }
  forward_generic<T, Op>(p, o, stream);
}

}  // namespace

void forward(const Filter2dParams& p, Storage storage, const Operands& operands, void* enqueued_on) {
  const auto stream = static_cast<Stream>(enqueued_on);
  if (!p.batch) return;
  with_storage(storage, [&](auto type) {
    using T = typename decltype(type)::type;
    const Algorithm algorithm = forward_algorithm<T>(p, operands);
    const Operands o = prepare_taps(p, storage, operands, forward_statistics(algorithm, operands), stream);
    with_combine(p.combine, [&](auto op) { forward_for<T, decltype(op)>(algorithm, p, o, stream); });
  });
}

size_t forward_workspace(const Filter2dParams& p, Storage storage, const Operands& o) {
  size_t elements = 0;
  if (!p.batch) return elements;
  with_storage(storage, [&](auto type) {
    const Algorithm algorithm = forward_algorithm<typename decltype(type)::type>(p, o);
    elements = statistics_elements(p, forward_statistics(algorithm, o));
  });
  return elements;
}

}  // namespace dynfilters::cuda
