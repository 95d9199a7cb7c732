// Where kernels leave the gradients of taps.
#pragma once
#include "storage.cuh"

namespace dynfilters::cuda {

// Partial sums, or the result if there is one part and no activation to differentiate.
template <class T>
struct Target {
  T* result;
  Accumulator<T>* partial;  // null: the result is written at once
  int64_t elements;

  __host__ __device__ __forceinline__ bool is_wanted() const { return result || partial; }
  __device__ __forceinline__ void put(int part, int64_t at, Accumulator<T> value) const {
    if (partial)
      partial[part * elements + at] = value;
    else
      result[at] = from_acc<T>(value);
  }
};

template <class T>
struct TapTargets {
  Target<T> spatial, channel;
};

// How many parts there are of grad_spatial, and of grad_channel.
struct Parts {
  int splits, tiles;
};

inline int64_t spatial_filters(const Filter2dParams& p) { return p.batch * p.groups * p.rows * p.cols * p.phases(); }
inline int64_t channel_filters(const Filter2dParams& p) { return p.batch * p.channels * p.channel_phases; }

// Parts of a gradient in the workspace. Where a single part of an activated tap's gradient may be
// kept in the result, which is then differentiated in place, there are none.
template <class T>
int spatial_parts(const Operands& o, int splits) {
  const bool in_place = std::is_same_v<T, Accumulator<T>> || !o.changes_spatial();
  return !o.grad_spatial || (splits == 1 && in_place) ? 0 : splits;
}
inline int channel_parts(const Operands& o, int tiles) {
  if (o.changes_channel()) return o.grad_channel || o.grad_std ? tiles : 0;
  return o.grad_channel && tiles > 1 ? tiles : 0;
}

template <class T>
size_t partial_elements(const Filter2dParams& p, const Operands& o, const Parts& parts) {
  return size_t(p.taps() * (spatial_parts<T>(o, parts.splits) * spatial_filters(p) +
                            channel_parts(o, parts.tiles) * channel_filters(p)));
}

template <class T>
TapTargets<T> tap_targets(const Filter2dParams& p, const Operands& operands, const Parts& parts) {
  const Typed<T> o(operands);
  TapTargets<T> to{{o.grad_spatial, nullptr, spatial_filters(p) * p.taps()},
                   {o.grad_channel, nullptr, channel_filters(p) * p.taps()}};
  Accumulator<T>* free = o.workspace;
  const int of_spatial = spatial_parts<T>(operands, parts.splits);
  if (of_spatial) to.spatial.partial = free, free += of_spatial * to.spatial.elements;
  if constexpr (std::is_same_v<T, Accumulator<T>>)
    if (!of_spatial && operands.changes_spatial()) to.spatial.partial = o.grad_spatial;
  if (channel_parts(operands, parts.tiles)) to.channel.partial = free;
  return to;
}

}  // namespace dynfilters::cuda
