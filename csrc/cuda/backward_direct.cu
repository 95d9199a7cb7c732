// A unit of its own, so that compilers can share the work.
#include "algorithm.cuh"
#include "direct.cuh"

namespace dynfilters::cuda {

template <class T, class Op>
void backward_direct_for(const Filter2dParams& p, const Operands& o, Stream stream) {
  with_kernel(p, [&](auto kernel) {
    constexpr int k = decltype(kernel)::kw;
    if constexpr (sizeof(T) <= 4 && k) backward_direct<T, Op, k>(p, o, stream);
  });
}

void backward_direct_on(const Filter2dParams& p, Storage storage, const Operands& o, Stream stream) {
  with_storage(storage, [&](auto type) {
    using T = typename decltype(type)::type;
    with_combine(p.combine, [&](auto op) { backward_direct_for<T, decltype(op)>(p, o, stream); });
  });
}

}  // namespace dynfilters::cuda
