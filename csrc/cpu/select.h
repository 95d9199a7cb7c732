#pragma once
#include "storage.h"

namespace dynfilters::cpu {

// Calls f with the access to a storage type.
template <class F>
auto with_access(Storage storage, const F& f) {
  switch (storage) {
    case Storage::kFloat64: return f(AccessTo<double>());
    case Storage::kFloat32: return f(AccessTo<float>());
    case Storage::kBFloat16: return f(AccessTo<BFloat16>());
    case Storage::kFloat16: break;
  }
  return f(AccessTo<Half>());
}

// The same, without float64.
template <class F>
auto with_short_access(Storage storage, const F& f) {
  if (storage == Storage::kBFloat16) return f(AccessTo<BFloat16>());
  return storage == Storage::kFloat16 ? f(AccessTo<Half>()) : f(AccessTo<float>());
}

}  // namespace dynfilters::cpu
