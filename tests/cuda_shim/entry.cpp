// The entry points of csrc/cuda/kernels.h and generate.h, for Python.
#include "../../csrc/cuda/generate.h"
#include "../../csrc/cuda/kernels.h"

using namespace dynfilters;
using namespace dynfilters::cuda;

extern "C" {

size_t shim_params_bytes() { return sizeof(Filter2dParams); }
size_t shim_operands_bytes() { return sizeof(Operands); }

void shim_forward(const Filter2dParams* p, int storage, const Operands* o) {
  forward(*p, Storage(storage), *o, nullptr);
}
void shim_backward(const Filter2dParams* p, int storage, const Operands* o) {
  backward(*p, Storage(storage), *o, nullptr);
}
size_t shim_forward_workspace(const Filter2dParams* p, int storage, const Operands* o) {
  return forward_workspace(*p, Storage(storage), *o);
}
size_t shim_backward_workspace(const Filter2dParams* p, int storage, const Operands* o) {
  return backward_workspace(*p, Storage(storage), *o);
}

size_t shim_generate_bytes() { return sizeof(GenerateParams); }
size_t shim_generate_operands_bytes() { return sizeof(GenerateOperands); }
size_t shim_partial_sums(const GenerateParams* p) { return partial_sums(*p); }
bool shim_fits_generate(const GenerateParams* p, int storage) { return fits_generate(*p, Storage(storage)); }
void shim_pool_project(const GenerateParams* p, int storage, const GenerateOperands* o) {
  pool_project(*p, Storage(storage), *o, nullptr);
}
void shim_ddf_generate(const GenerateParams* p, int storage, const GenerateOperands* o) {
  ddf_generate(*p, Storage(storage), *o, nullptr);
}
}
