// One call of filter2d, as every kernel sees it: a plain struct of sizes and strides.
#pragma once
#include <cstdint>

namespace dynfilters {

enum class Combine : int32_t { kMul, kAdd, kSpatialOnly, kChannelOnly };

struct Filter2dParams {
  int64_t batch, channels, height, width;  // x: (batch, channels, height, width)
  int64_t groups;                          // of spatial; 1 without it
  int64_t kh, kw, stride, dilation, scale;
  int64_t rows, cols;      // window centres: (height-1)/stride+1, (width-1)/stride+1
  int64_t channel_phases;  // that channel tells apart: scale² or 1
  Combine combine;
  // Strides in elements, so that any layout is read in place.
  int64_t xs[4];  // (b, c, h, w)
  int64_t ys[4];  // y, or its gradient: (b, c, rows*scale, cols*scale)
  int64_t gs[4];  // the gradient of x: (b, c, h, w)
  int64_t ss[5];  // spatial: (b, g, k, rows*scale, cols*scale)
  int64_t cs[4];  // channel: (b, c, k, phase)

  bool has_spatial() const { return combine != Combine::kChannelOnly; }
  bool has_channel() const { return combine != Combine::kSpatialOnly; }
  int64_t taps() const { return kh * kw; }
  int64_t phases() const { return scale * scale; }
  int64_t pad_h() const { return dilation * (kh / 2); }
  int64_t pad_w() const { return dilation * (kw / 2); }
  int64_t group_channels() const { return channels / groups; }
};

}  // namespace dynfilters
