// What happens to raw taps before they weigh x; the formulas are in dynfilters/ops/activations.py.
#pragma once
#include <string>

namespace dynfilters {

enum class ActivationKind { kIdentity, kSigmoid, kTanh, kSoftmax, kFilterNorm };

struct Activation {
  ActivationKind kind = ActivationKind::kIdentity;
  double gain = 1, eps = 0;  // of filter_norm
  bool is_identity() const { return kind == ActivationKind::kIdentity; }
};

struct Activations {
  Activation spatial, channel;
};

// False: there is none of that name.
inline bool activation_of(const std::string& name, double gain, double eps, Activation& out) {
  out = {ActivationKind::kIdentity, gain, eps};
  if (name == "sigmoid") out.kind = ActivationKind::kSigmoid;
  else if (name == "tanh") out.kind = ActivationKind::kTanh;
  else if (name == "softmax") out.kind = ActivationKind::kSoftmax;
  else if (name == "filter_norm") out.kind = ActivationKind::kFilterNorm;
  else return name == "identity";
  return true;
}

}  // namespace dynfilters
