// From Storage to the type that holds the elements.
#pragma once
#include "raw_taps.cuh"

namespace dynfilters::cuda {

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

}  // namespace dynfilters::cuda
