#include "../dispatch.h"
#include "gradients_planar.h"
#include "pixels.h"
#include "storage.h"

namespace dynfilters::cpu {

void grad_x(const Problem& p, Storage storage, bool pixels, const Operands& o, Blocks blocks, int64_t begin, int64_t end) {
  with_storage(storage, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = Accumulator<T>;
    GradXRow<A> row = nullptr;
    Weigh<T, A> all = nullptr, some = nullptr;
    with_combine(p.combine, [&](auto op) {
      row = grad_x_row<A, decltype(op)>;
      all = weigh_for<T, decltype(op)>(p);
      some = weigh_pixel<T, A, decltype(op), 0>;
    });
    if (pixels) return grad_x_pixels<T>(p, all, some, o, blocks, begin, end);
    grad_x_planar<T>(p, row, o, blocks, begin, end);
  });
}

}  // namespace dynfilters::cpu
