// The operands of a call with their type: raw taps, how they become those that weigh x, and where their gradients go.
#pragma once
#include "activate.cuh"
#include "kernels.h"

namespace dynfilters::cuda {

// Raw taps, and how they become those that weigh x.
template <class T>
struct RawTaps {
  using A = Accumulator<T>;
  const T *spatial, *channel;
  const T* channel_std;  // (channels, taps, std_phases), of the activated channel taps; null for ones
  int64_t std_phases;
  Activator<A> of_spatial, of_channel;

  explicit RawTaps(const Operands& o)
      : spatial(static_cast<const T*>(o.spatial)), channel(static_cast<const T*>(o.channel)),
        channel_std(static_cast<const T*>(o.channel_std)), std_phases(o.std_phases),
        of_spatial(activator(o.spatial_activation, o.spatial_statistics)),
        of_channel(activator(o.channel_activation, o.channel_statistics)) {}

  __device__ __forceinline__ A std_at(int64_t c, int64_t k, int taps, int64_t phase) const {
    return channel_std ? read(channel_std + (c * taps + k) * std_phases + (std_phases > 1 ? phase : 0)) : A(1);
  }
  __host__ __device__ __forceinline__ bool changes_channel() const { return !of_channel.is_identity() || channel_std; }
  // The filter of channel c, in place: at(k) is a reference to tap k.
  template <int Unroll, class At>
  __device__ __forceinline__ void activate_channel(int64_t c, int taps, int64_t phase, const At& at) const {
    of_channel.template activate<Unroll>(taps, at);
    if (!channel_std) return;
#pragma unroll Unroll
    for (int k = 0; k < taps; ++k) at(k) *= std_at(c, k, taps, phase);
  }

 private:
  static Activator<A> activator(const Activation& how, const void* statistics) {
    return {how.kind, A(how.gain), A(how.eps), static_cast<const A*>(statistics)};
  }
};

template <class T>
struct Type {
  using type = T;
};

// Calls f(Type<T>{}).
template <class F>
void with_storage(Storage storage, const F& f) {
  switch (storage) {
    case Storage::kFloat64: return f(Type<double>{});
    case Storage::kFloat32: return f(Type<float>{});
    case Storage::kBFloat16: return f(Type<__nv_bfloat16>{});
    case Storage::kFloat16: return f(Type<__half>{});
  }
}

// The operands of a call, with their type.
template <class T>
struct Typed {
  const T *x, *grad;
  RawTaps<T> raw;
  T *y, *grad_x, *grad_spatial, *grad_channel, *grad_std;
  Accumulator<T>* workspace;

  explicit Typed(const Operands& o)
      : x(static_cast<const T*>(o.x)), grad(static_cast<const T*>(o.grad)), raw(o), y(static_cast<T*>(o.y)),
        grad_x(static_cast<T*>(o.grad_x)), grad_spatial(static_cast<T*>(o.grad_spatial)),
        grad_channel(static_cast<T*>(o.grad_channel)), grad_std(static_cast<T*>(o.grad_std)),
        workspace(static_cast<Accumulator<T>*>(o.workspace)) {}
};

// ---- where kernels leave the gradients of taps ----

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
