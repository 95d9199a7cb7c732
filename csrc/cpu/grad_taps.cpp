#include "../dispatch.h"
#include "gradients_planar.h"
#include "pixels.h"
#include "storage.h"

namespace dynfilters::cpu {

template <class A, class Op>
GradTapsRow<A> grad_taps_row_for(const Problem& p) {
  GradTapsRow<A> row = grad_taps_row<A, Op, 0, false>;
  if constexpr (sizeof(A) == 4)
    if (p.stride == 1 && p.dilation == 1 && p.kw == 3) row = grad_taps_row<A, Op, 3, true>;
  return row;
}

void grad_taps(const Problem& p, Storage storage, bool pixels, const Operands& o, Blocks blocks, int64_t begin, int64_t end) {
  with_storage(storage, [&](auto type) {
    using T = typename decltype(type)::type;
    GradTapsRow<Accumulator<T>> row = nullptr;
    with_combine(p.combine, [&](auto op) {
      if (pixels) return grad_taps_pixels<T, decltype(op)>(p, o, blocks, begin, end);
      row = grad_taps_row_for<Accumulator<T>, decltype(op)>(p);
    });
    if (!pixels) grad_taps_planar<T>(p, row, o, blocks, begin, end);
  });
}

}  // namespace dynfilters::cpu
