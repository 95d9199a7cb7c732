// Which kernels run backward.
#pragma once
#include "../dispatch.h"
#include "direct_backward.cuh"
#include "limits.cuh"
#include "paths.cuh"
#include "pixels_backward.cuh"
#include "staged_backward.cuh"

namespace dynfilters::cuda {

enum class Path { kGeneric, kDirect, kStaged, kPixels };

// One pass gives all gradients where each tap of x belongs to one output.
template <class T>
Path backward_path(const Problem& p, const Operands& o) {
  const bool square = p.kh == p.kw && (p.kh == 3 || p.kh == 5 || p.kh == 7);
  if (sizeof(T) > 4 || !square || p.stride > 1 || p.scale > 1 || !is_small(p)) return Path::kGeneric;
  if (can_stage_backward<T>(p, o)) return Path::kStaged;
  return can_backward_pixels<T>(p, o) ? Path::kPixels : Path::kDirect;
}

template <class T, class Op>
void backward_for(Path path, const Problem& p, const Operands& o, Stream stream) {
  if constexpr (sizeof(T) <= 4) {
    if (path == Path::kStaged) return backward_staged<T, Op>(p, o, stream);
    if (path == Path::kPixels) return backward_pixels<T, Op>(p, o, stream);
  }
  backward_generic<T, Op>(p, o, stream);
}

inline void backward_on(const Problem& p, Storage storage, const Operands& o, Stream stream) {
  if (!p.batch) return;
  with_storage(storage, [&](auto type) {
    using T = typename decltype(type)::type;
    const Path path = backward_path<T>(p, o);
    if (path == Path::kDirect) return backward_direct_on(p, storage, o, stream);
    with_combine(p.combine, [&](auto op) { backward_for<T, decltype(op)>(path, p, o, stream); });
  });
}

inline size_t workspace_needed(const Problem& p, Storage storage, const Operands& o) {
  size_t elements = 0;
  if (!p.batch) return elements;
  with_storage(storage, [&](auto type) {
    const Path path = backward_path<typename decltype(type)::type>(p, o);
    if (path == Path::kGeneric) return;
    if (path == Path::kPixels) {
      elements = partial_elements(p, o, 1, pixels_backward_work(p).tiles);
      return;
    }
    const Work work = path == Path::kStaged ? staged_backward_work(p) : direct_backward_work(p);
    elements = partial_elements(p, o, work.splits, work.tiles);
  });
  return elements;
}

}  // namespace dynfilters::cuda
