#include "paths.cuh"
#include "taps.cuh"

namespace dynfilters::cuda {

namespace {

// Calls f with 9 for filters of 9 taps, which registers hold, else with 0.
template <class T, class F>
void with_taps(const Filter2dParams& p, const F& f) {
  if constexpr (sizeof(T) <= 4)
    if (p.taps() == 9) return f(std::integral_constant<int, 9>{});
  f(std::integral_constant<int, 0>{});
}

template <class T>
void differentiate_all(const Filter2dParams& p, const Typed<T>& o, const TapTargets<T>& to, const Parts& parts,
                       Stream stream) {
  const GradientOf<T> spatial{spatial_of(p, o.raw), to.spatial.partial, parts.splits,
                              to.spatial.partial ? to.spatial.result : nullptr};
  const GradientOf<T> channel{channel_of(p, o.raw), to.channel.partial, parts.tiles,
                              to.channel.partial ? to.channel.result : nullptr};
  const int64_t stds = o.grad_std ? p.channels * p.taps() * o.raw.std_phases : 0;
  const int64_t items = spatial.size() + channel.size() + stds;
  if (!items) return;
  with_taps<T>(p, [&](auto taps) {
    launch(taps_backward<T, decltype(taps)::value>, grid_of(blocks_for(items, kFilterThreads)),
           dim3(kFilterThreads), 0, stream, spatial, channel, o.raw, o.grad_std);
  });
}

template <class T>
void sum_all(const TapTargets<T>& to, const Parts& parts, Stream stream) {
  auto job = [](const Target<T>& t, int parts) {
    return Partials<T>{t.partial, t.result, t.partial ? t.elements : 0, parts};
  };
  const Partials<T> first = job(to.spatial, parts.splits), second = job(to.channel, parts.tiles);
  const int64_t elements = first.elements + second.elements;
  if (elements)
    launch(sum_partials<T>, grid_of(blocks_for(elements)), dim3(kGenericThreads), 0, stream, first, second);
}

template <class T>
Operands prepare(const Filter2dParams& p, Operands operands, const NeededStatistics& needed, Stream stream) {
  const RawTaps<T> raw(operands);
  auto* free = static_cast<Accumulator<T>*>(operands.workspace);
  const auto take = [&](bool wanted, int64_t filters) {
    Accumulator<T>* taken = wanted ? free : nullptr;
    if (wanted) free += filters * Statistics<Accumulator<T>>::kNumbers;
    return taken;
  };
  const StatisticsOf<T> spatial{spatial_of(p, raw), take(needed.spatial, spatial_filters(p))};
  const StatisticsOf<T> channel{channel_of(p, raw), take(needed.channel, channel_filters(p))};
  operands.spatial_statistics = spatial.to, operands.channel_statistics = channel.to, operands.workspace = free;
  const int64_t filters = spatial.size() + channel.size();
  if (filters)
    with_taps<T>(p, [&](auto taps) {
      launch(taps_statistics<T, decltype(taps)::value>, grid_of(blocks_for(filters, kFilterThreads)),
             dim3(kFilterThreads), 0, stream, spatial, channel);
    });
  return operands;
}

}  // namespace

size_t statistics_elements(const Filter2dParams& p, const NeededStatistics& needed) {
  return size_t(needed.spatial * spatial_filters(p) + needed.channel * channel_filters(p)) *
         Statistics<float>::kNumbers;
}

Operands prepare_taps(const Filter2dParams& p, Storage storage, const Operands& o, const NeededStatistics& needed,
                      Stream stream) {
  Operands prepared{};
  with_storage(storage,
               [&](auto type) { prepared = prepare<typename decltype(type)::type>(p, o, needed, stream); });
  return prepared;
}

void finish_taps(const Filter2dParams& p, Storage storage, const Operands& operands, const Parts& parts,
                 Stream stream) {
  with_storage(storage, [&](auto type) {
    using T = typename decltype(type)::type;
    const TapTargets<T> to = tap_targets<T>(p, operands, parts);
    if (operands.changes_spatial() || operands.changes_channel())
      differentiate_all(p, Typed<T>(operands), to, parts, stream);
    else
      sum_all(to, parts, stream);
  });
}

}  // namespace dynfilters::cuda
