#include "forward.cuh"

namespace dynfilters::cuda {

void forward(const Filter2dParams& p, Storage storage, const Operands& o, void* stream) {
  forward_on(p, storage, o, static_cast<Stream>(stream));
}

size_t forward_workspace(const Filter2dParams& p, Storage storage, const Operands& o) {
  return forward_needed(p, storage, o);
}

}  // namespace dynfilters::cuda
