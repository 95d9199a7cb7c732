// Activations of many filters side by side, and their gradients, in the accumulation type: tap k
// of filter i lies at taps[k·step + i]. `count` filters, a multiple of the lanes.
#pragma once
#include "../activation.h"
#include "storage.h"

namespace dynfilters::cpu {

// In place.
template <class A>
void activate(const Activation& how, A* taps, int64_t K, int64_t step, int64_t count);
// grad: in the activated taps, becomes that in the raw ones.
template <class A>
void activate_backward(const Activation& how, const A* raw, A* grad, int64_t K, int64_t step, int64_t count);

// Whole tensors of channel taps, (batch, channels, taps, phases): contiguous but for the input.
// std: null, or (channels, taps, phases or 1), contiguous.
struct ChannelTaps {
  int64_t batch, channels, taps, channel_phases, std_phases;
  int64_t strides[4];
  const void *raw, *std;
};
// out: the activated taps of the samples [begin, end), of the accumulation type.
void activate_channel(const ChannelTaps& t, Storage storage, const Activation& how, void* out, int64_t begin,
                      int64_t end);
// From grad, in the activated taps and of the accumulation type, the gradient of the raw ones and
// that of std (either null: not wanted); for the channels [begin, end).
void activate_channel_backward(const ChannelTaps& t, Storage storage, const Activation& how, const void* grad,
                               void* grad_raw, void* grad_std, int64_t begin, int64_t end);

}  // namespace dynfilters::cpu
