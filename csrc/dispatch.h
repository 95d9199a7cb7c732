// Run-time flags become template arguments here, and nowhere else.
#pragma once
#include "combine.h"
#include "filter2d.h"

namespace dynfilters {

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
