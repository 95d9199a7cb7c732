// The entry points of csrc/cuda/kernels.h, for Python.
#include "../../csrc/cuda/kernels.h"

using namespace dynfilters;
using namespace dynfilters::cuda;

extern "C" {

size_t shim_problem_bytes() { return sizeof(Problem); }
size_t shim_operands_bytes() { return sizeof(Operands); }

void shim_forward(const Problem* p, int storage, const Operands* o) { forward(*p, Storage(storage), *o, nullptr); }
void shim_backward(const Problem* p, int storage, const Operands* o) { backward(*p, Storage(storage), *o, nullptr); }
size_t shim_workspace(const Problem* p, int storage, const Operands* o) {
  return workspace_elements(*p, Storage(storage), *o);
}
}
