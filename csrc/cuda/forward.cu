#include "forward.cuh"

namespace dynfilters::cuda {

void forward(const Problem& p, Storage storage, const Operands& o, void* stream) {
  forward_on(p, storage, o, static_cast<Stream>(stream));
}

}  // namespace dynfilters::cuda
