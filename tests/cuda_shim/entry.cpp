// The entry points of csrc/cuda/kernels.h, for Python.
#include "../../csrc/cuda/kernels.h"

using namespace dynfilters;
using namespace dynfilters::cuda;

extern "C" {

size_t shim_problem_bytes() { return sizeof(Problem); }
size_t shim_operands_bytes() { return sizeof(Operands); }

void shim_forward(const Problem* p, int storage, const Operands* o) { forward(*p, Storage(storage), *o, nullptr); }
void shim_backward(const Problem* p, int storage, const Operands* o) { backward(*p, Storage(storage), *o, nullptr); }
size_t shim_forward_workspace(const Problem* p, int storage, const Operands* o) {
  return forward_workspace(*p, Storage(storage), *o);
}
size_t shim_backward_workspace(const Problem* p, int storage, const Operands* o) {
  return backward_workspace(*p, Storage(storage), *o);
}
}
