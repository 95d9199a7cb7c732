// Raw taps as the kernels get them, and how they become those that weigh x.
#pragma once
#include "activate.cuh"
#include "kernels.h"

namespace dynfilters::cuda {

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

}  // namespace dynfilters::cuda
