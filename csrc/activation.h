// Activations of raw taps, before they weigh x; the formulas are in dynfilters/ops/activations.py. Another one takes a
// row here, and its formula in cpu/activate.cpp and cuda/activate.cuh.
#pragma once
#include <string>

namespace dynfilters {

enum class ActivationKind { kIdentity, kSigmoid, kTanh, kSoftmax, kFilterNorm };

struct ActivationInfo {
  const char* name;
  bool elementwise;  // a tap does not depend on the other taps of its filter
};

// A row for each kind, in the order of ActivationKind.
inline constexpr ActivationInfo kActivations[] = {
    {"identity", true}, {"sigmoid", true}, {"tanh", true}, {"softmax", false}, {"filter_norm", false},
};

struct Activation {
  ActivationKind kind = ActivationKind::kIdentity;
  double gain = 1, eps = 0;  // of filter_norm
  bool is_identity() const { return kind == ActivationKind::kIdentity; }
  bool is_elementwise() const { return kActivations[int(kind)].elementwise; }
};

struct Activations {
  Activation spatial, channel;
};

// Finds the activation of that name; false: there is none.
inline bool activation_of(const std::string& name, double gain, double eps, Activation& out) {
  int kind = 0;
  for (const ActivationInfo& info : kActivations) {
    if (name == info.name) return out = {ActivationKind(kind), gain, eps}, true;
    ++kind;
  }
  return false;
}

// The names, as a list.
inline std::string activation_names() {
  std::string names;
  for (const ActivationInfo& info : kActivations) names += std::string(names.empty() ? "" : ", ") + info.name;
  return names;
}

}  // namespace dynfilters
