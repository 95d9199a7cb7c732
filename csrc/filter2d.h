// One call of filter2d as every kernel sees it: a plain struct of sizes and strides, how its taps combine, and how
// its run-time flags become template arguments.
#pragma once
#include <cstdint>

#ifdef __CUDACC__
#define DYNFILTERS_INLINE __host__ __device__ __forceinline__
#else
#define DYNFILTERS_INLINE inline __attribute__((always_inline))
#endif

namespace dynfilters {

// How elements are stored. Sums of float64 are in float64, of all others in float32.
enum class Storage : int32_t { kFloat64, kFloat32, kBFloat16, kFloat16 };

enum class Combine : int32_t { kMul, kAdd, kSpatialOnly, kChannelOnly };

struct Filter2dParams {
  int64_t batch, channels, height, width;  // x: (batch, channels, height, width)
  int64_t groups;                          // of spatial; 1 without it
  int64_t kh, kw, stride, dilation, scale;
  int64_t rows, cols;      // window centres: (height-1)/stride+1, (width-1)/stride+1
  int64_t channel_phases;  // phases of y that have channel taps of their own: scale² or 1
  Combine combine;
  // Strides in elements, so that any memory format is read in place.
  int64_t xs[4];  // (b, c, h, w)
  int64_t ys[4];  // y, or its gradient: (b, c, rows*scale, cols*scale)
  int64_t gs[4];  // the gradient of x: (b, c, h, w)
  int64_t ss[5];  // spatial: (b, g, k, rows*scale, cols*scale)
  int64_t cs[4];  // channel: (b, c, k, phase)

  bool has_spatial() const { return combine != Combine::kChannelOnly; }
  bool has_channel() const { return combine != Combine::kSpatialOnly; }
  int64_t taps() const { return kh * kw; }
  int64_t phases() const { return scale * scale; }  // outputs of a window
  int64_t pad_h() const { return dilation * (kh / 2); }
  int64_t pad_w() const { return dilation * (kw / 2); }
  int64_t group_channels() const { return channels / groups; }
};

// How the two kinds of taps make one: tap(s, c) weighs x. With p = g·x, the gradient of s is d_spatial(p, c), of c
// d_channel(p, s). Each kernel takes one of these as a template argument; there is one copy of each kernel, not four.
struct Mul {
  static constexpr bool kSpatial = true, kChannel = true;
  template <class A>
  static DYNFILTERS_INLINE A tap(A s, A c) { return s * c; }
  template <class A>
  static DYNFILTERS_INLINE A d_spatial(A p, A c) { return p * c; }
  template <class A>
  static DYNFILTERS_INLINE A d_channel(A p, A s) { return p * s; }
};

struct Add {
  static constexpr bool kSpatial = true, kChannel = true;
  template <class A>
  static DYNFILTERS_INLINE A tap(A s, A c) { return s + c; }
  template <class A>
  static DYNFILTERS_INLINE A d_spatial(A p, A) { return p; }
  template <class A>
  static DYNFILTERS_INLINE A d_channel(A p, A) { return p; }
};

struct SpatialOnly {
  static constexpr bool kSpatial = true, kChannel = false;
  template <class A>
  static DYNFILTERS_INLINE A tap(A s, A) { return s; }
  template <class A>
  static DYNFILTERS_INLINE A d_spatial(A p, A) { return p; }
  template <class A>
  static DYNFILTERS_INLINE A d_channel(A p, A) { return p; }
};

struct ChannelOnly {
  static constexpr bool kSpatial = false, kChannel = true;
  template <class A>
  static DYNFILTERS_INLINE A tap(A, A c) { return c; }
  template <class A>
  static DYNFILTERS_INLINE A d_spatial(A p, A) { return p; }
  template <class A>
  static DYNFILTERS_INLINE A d_channel(A p, A) { return p; }
};

// Calls f(Op{}) with the combination's functor.
template <class F>
void with_combine(Combine combine, const F& f) {
  switch (combine) {
    case Combine::kMul: return f(Mul{});
    case Combine::kAdd: return f(Add{});
    case Combine::kSpatialOnly: return f(SpatialOnly{});
    case Combine::kChannelOnly: return f(ChannelOnly{});
  }
}

template <int KH, int KW>
struct Kernel {
  static constexpr int kh = KH, kw = KW, taps = KH * KW;
};

// Calls f(Kernel<k, k>{}) for a square kernel of 3, 5 or 7, else f(Kernel<0, 0>{}).
template <class F>
void with_kernel(const Filter2dParams& p, const F& f) {
  if (p.kh == p.kw) {
    if (p.kh == 3) return f(Kernel<3, 3>{});
    if (p.kh == 5) return f(Kernel<5, 5>{});
    if (p.kh == 7) return f(Kernel<7, 7>{});
  }
  f(Kernel<0, 0>{});
}

}  // namespace dynfilters
