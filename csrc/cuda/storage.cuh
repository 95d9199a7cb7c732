// From Storage to the type that holds the elements.
#pragma once
#include "kernels.h"
#include "primitives.cuh"

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
  const T *x, *spatial, *channel, *grad;
  T *y, *grad_x, *grad_spatial, *grad_channel;
  Accumulator<T>* workspace;

  explicit Typed(const Operands& o)
      : x(static_cast<const T*>(o.x)), spatial(static_cast<const T*>(o.spatial)),
        channel(static_cast<const T*>(o.channel)), grad(static_cast<const T*>(o.grad)), y(static_cast<T*>(o.y)),
        grad_x(static_cast<T*>(o.grad_x)), grad_spatial(static_cast<T*>(o.grad_spatial)),
        grad_channel(static_cast<T*>(o.grad_channel)), workspace(static_cast<Accumulator<T>*>(o.workspace)) {}
};

}  // namespace dynfilters::cuda
