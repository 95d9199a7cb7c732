#include "backward.cuh"

namespace dynfilters::cuda {

void backward(const Filter2dParams& p, Storage storage, const Operands& o, void* stream) {
  backward_on(p, storage, o, static_cast<Stream>(stream));
}

size_t backward_workspace(const Filter2dParams& p, Storage storage, const Operands& o) {
  return backward_needed(p, storage, o);
}

}  // namespace dynfilters::cuda
