#pragma once
#include "kernels.h"
#include "simd.h"

namespace dynfilters::cpu {

template <class T>
struct Type {
  using type = T;
};

// Calls f(Type<T>{}) with the storage type.
template <class F>
void with_storage(Storage storage, const F& f) {
  switch (storage) {
    case Storage::kFloat64: return f(Type<double>{});
    case Storage::kFloat32: return f(Type<float>{});
    case Storage::kBFloat16: return f(Type<BFloat16>{});
    case Storage::kFloat16: return f(Type<Half>{});
  }
}

}  // namespace dynfilters::cpu
