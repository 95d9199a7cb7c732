// How the two kinds of taps make one, and what that does to their gradients. Each kernel takes
// one of these as a template argument; there is one copy of each kernel, not four.
#pragma once

#ifdef __CUDACC__
#define DYNFILTERS_INLINE __host__ __device__ __forceinline__
#else
#define DYNFILTERS_INLINE inline __attribute__((always_inline))
#endif

namespace dynfilters {

// tap(s, c) weighs x. With p = g·x, the gradient of s is d_spatial(p, c), of c d_channel(p, s).
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

}  // namespace dynfilters
