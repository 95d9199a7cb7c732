#include "../dispatch.h"
#include "forward_planar.h"
#include "pixels.h"
#include "storage.h"

namespace dynfilters::cpu {

template <class A, class Op>
ForwardRow<A> forward_row_for(const Problem& p) {
  ForwardRow<A> row = forward_row<A, Op, 0, false>;
  // Only float32 (and the half types, which are packed to it) has code for each kernel size.
  if constexpr (sizeof(A) == 4)
    if (p.stride == 1 && p.dilation == 1)
      with_kernel(p, [&](auto kernel) {
        using K = decltype(kernel);
        if constexpr (K::kw) row = forward_row<A, Op, K::kw, true>;
      });
  return row;
}

void forward(const Problem& p, Storage storage, bool pixels, const Operands& o, Blocks blocks, int64_t begin, int64_t end) {
  with_storage(storage, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = Accumulator<T>;
    ForwardRow<A> row = nullptr;
    Weigh<T, A> all = nullptr, some = nullptr;
    with_combine(p.combine, [&](auto op) {
      row = forward_row_for<A, decltype(op)>(p);
      all = weigh_for<T, decltype(op)>(p);
      some = weigh_pixel<T, A, decltype(op), 0>;
    });
    if (pixels) return forward_pixels<T>(p, all, some, o, blocks, begin, end);
    forward_planar<T>(p, row, o, blocks, begin, end);
  });
}

}  // namespace dynfilters::cpu
