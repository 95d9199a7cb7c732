// Statistics of taps before the kernels that filter, and gradients of raw taps behind them: a thread takes one filter.
//
// Accumulation: in the accumulation type. Parts in their order, then as activate.cuh says;
// grad std over samples, then phases, in their order. Deterministic; every element is written once,
// where `from` and `to` are one array by the thread that read it.
#include "algorithm.cuh"
#include "work.cuh"

namespace dynfilters::cuda {

constexpr int kFilterThreads = 128;

// All filters of one kind, (batch, count, taps, rows, cols): spatial taps are, channel taps in one
// row of phases.
template <class T>
struct Filters {
  const T* raw;
  int64_t batch, count, taps, rows, cols;
  int64_t strides[5];
  Activator<Accumulator<T>> how;

  __host__ __device__ __forceinline__ int64_t plane() const { return rows * cols; }
  __host__ __device__ __forceinline__ int64_t size() const { return batch * count * plane(); }
  // The first tap of filter i.
  __device__ __forceinline__ const T* tap(int64_t i) const {
    const int64_t position = i % plane(), n = i / plane();
    return raw + n / count * strides[0] + n % count * strides[1] + position / cols * strides[3] +
           position % cols * strides[4];
  }
  // Its place in a gradient, where the next tap is a plane ahead.
  __device__ __forceinline__ int64_t element(int64_t i) const { return i / plane() * taps * plane() + i % plane(); }
};

template <class T>
Filters<T> spatial_of(const Filter2dParams& p, const RawTaps<T>& raw) {
  return {raw.spatial, p.batch, p.groups, p.taps(), p.rows * p.scale, p.cols * p.scale,
          {p.ss[0], p.ss[1], p.ss[2], p.ss[3], p.ss[4]}, raw.of_spatial};
}
template <class T>
Filters<T> channel_of(const Filter2dParams& p, const RawTaps<T>& raw) {
  return {raw.channel,   p.batch, p.channels, p.taps(), 1, p.channel_phases, {p.cs[0], p.cs[1], p.cs[2], 0, p.cs[3]},
          raw.of_channel};
}

// Where the statistics of filters go; null: nowhere.
template <class T>
struct StatisticsOf {
  Filters<T> filters;
  Accumulator<T>* to;

  __host__ __device__ __forceinline__ int64_t size() const { return to ? filters.size() : 0; }
};

// Taps: their number, or 0 where that is known at run time only.
template <int Taps, class T>
__device__ __forceinline__ void store_statistics(const StatisticsOf<T>& of, int64_t i) {
  const T* raw = of.filters.tap(i);
  const auto tap = [&](int k) { return read(raw + k * of.filters.strides[2]); };
  const int taps = Taps ? Taps : int(of.filters.taps);
  of.filters.how.with([&](const auto& how) {
    how.template statistics_of<Taps ? Taps : 1>(taps, tap).store(of.to + i * Statistics<Accumulator<T>>::kNumbers);
  });
}

template <class T, int Taps>
__global__ void __launch_bounds__(kFilterThreads) taps_statistics(StatisticsOf<T> spatial, StatisticsOf<T> channel) {
  const int64_t first = spatial.size(), second = channel.size();
  for (int64_t i = first_element(); i < first + second; i += element_step()) {
    if (i < first)
      store_statistics<Taps>(spatial, i);
    else
      store_statistics<Taps>(channel, i - first);
  }
}

// The gradient in activated taps, in parts, and where that in raw ones goes; null: nowhere.
template <class T>
struct GradientOf {
  Filters<T> filters;
  const Accumulator<T>* from;
  int parts;
  T* to;

  __host__ __device__ __forceinline__ int64_t size() const { return to ? filters.size() : 0; }
  __device__ __forceinline__ Accumulator<T> given(int64_t element) const {
    const int64_t elements = filters.size() * filters.taps;
    Accumulator<T> total = 0;
    for (int part = 0; part < parts; ++part) total += from[part * elements + element];
    return total;
  }
};

// std(k): what activated tap k has been multiplied by.
template <int Taps, class T, class Std>
__device__ __forceinline__ void differentiate(const GradientOf<T>& of, int64_t i, const Std& std) {
  constexpr int unroll = Taps ? Taps : 1;
  const int taps = Taps ? Taps : int(of.filters.taps);
  const int64_t plane = of.filters.plane(), element = of.filters.element(i);
  const T* raw = of.filters.tap(i);
  const auto tap = [&](int k) { return read(raw + k * of.filters.strides[2]); };
  const auto grad = [&](int k) { return of.given(element + k * plane) * std(k); };
  of.filters.how.with([&](const auto& how) {
    const auto statistics = how.statistics_at(i);
    const auto sums = how.template sums_of<unroll>(taps, tap, grad, statistics);
#pragma unroll unroll
    for (int k = 0; k < taps; ++k)
      of.to[element + k * plane] = from_acc<T>(how.gradient(grad(k), tap(k), statistics, sums));
  });
}

// Element i of the gradient of channel_std: (count, taps, phases or 1).
template <class T>
__device__ __forceinline__ Accumulator<T> std_gradient(const GradientOf<T>& of, int64_t phases, int64_t i) {
  const Filters<T>& filters = of.filters;
  const int64_t phase = i % phases, k = i / phases % filters.taps, c = i / phases / filters.taps;
  const int64_t shared = filters.plane() / phases;  // phases that one std is for
  Accumulator<T> total = 0;
  for (int64_t n = 0; n < filters.batch * shared; ++n) {
    const int64_t filter = (n / shared * filters.count + c) * filters.plane() + phase + n % shared;
    const auto tap = read(filters.tap(filter) + k * filters.strides[2]);
    total += of.given(filters.element(filter) + k * filters.plane()) * filters.how.finish_at(tap, filter);
  }
  return total;
}

template <class T, int Taps>
__global__ void __launch_bounds__(kFilterThreads)
    taps_backward(GradientOf<T> spatial, GradientOf<T> channel, RawTaps<T> raw, T* grad_std) {
  using A = Accumulator<T>;
  const int64_t first = spatial.size(), second = channel.size();
  const int64_t third = grad_std ? channel.filters.count * channel.filters.taps * raw.std_phases : 0;
  for (int64_t i = first_element(); i < first + second + third; i += element_step()) {
    if (i < first) {
      differentiate<Taps>(spatial, i, [](int) { return A(1); });
    } else if (const int64_t j = i - first; j < second) {
      const int64_t phase = j % channel.filters.plane(), c = j / channel.filters.plane() % channel.filters.count;
      differentiate<Taps>(channel, j, [&](int k) { return raw.std_at(c, k, int(channel.filters.taps), phase); });
    } else {
      grad_std[j - second] = from_acc<T>(std_gradient(channel, raw.std_phases, j - second));
    }
  }
}

// Two arrays of outputs, each summed over its parts, which lie one after the other.
template <class T>
struct Partials {
  const Accumulator<T>* from;
  T* to;
  int64_t elements;
  int parts;
};

template <class T>
__global__ void __launch_bounds__(kGenericThreads) sum_partials(Partials<T> first, Partials<T> second) {
  for (int64_t i = first_element(); i < first.elements + second.elements; i += element_step()) {
    const bool in_first = i < first.elements;
    const int64_t at = in_first ? i : i - first.elements, elements = in_first ? first.elements : second.elements;
    const Accumulator<T>* from = in_first ? first.from : second.from;
    const int parts = in_first ? first.parts : second.parts;
    Accumulator<T> total = 0;
    for (int part = 0; part < parts; ++part) total += from[part * elements + at];
    (in_first ? first.to : second.to)[at] = from_acc<T>(total);
  }
}

// ---- launches ----

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
