// Which algorithm serves a call, how its work is cut into tasks, and how threads share these. The cut depends on the
// parameters of the call alone, never on the number of threads, so that every sum has one order.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

#include "../filter2d.h"

namespace dynfilters::cpu {

// K for K×K kernels of 3, 5 or 7 without stride and dilation, else 0.
inline int64_t window_of(const Filter2dParams& p) {
  const bool window = p.kh == p.kw && (p.kh == 3 || p.kh == 5 || p.kh == 7) && p.stride == 1 && p.dilation == 1;
  return window ? p.kh : 0;
}

struct Tile {
  int64_t row, col, rows, cols;  // of windows
};

struct Tiles {
  int64_t rows, cols;    // of a whole tile
  int64_t down, across;  // how many
  int64_t count() const { return down * across; }
  Tile at(const Filter2dParams& p, int64_t i) const {
    const int64_t row = i / across * rows, col = i % across * cols;
    return {row, col, std::min(rows, p.rows - row), std::min(cols, p.cols - col)};
  }
};

enum class Algorithm {
  kPlanar,      // vectors along planes of any strides, packed tile by tile (planar.h)
  kFlat,        // vectors along dense planes, read in place (flat.h)
  kPixels,      // vectors of channels, packed or in place (pixel_rows.h)
  kTransposed,  // the same for small dense planes, which are transposed first (pixels.cpp)
};

inline bool is_by_pixels(Algorithm algorithm) {
  return algorithm == Algorithm::kPixels || algorithm == Algorithm::kTransposed;
}

struct Plan {
  Algorithm algorithm;
  Tiles tiles;
};

// How the tensors of a pass lie in memory.
struct MemoryFormat {
  bool forward;
  bool dense;   // x, y and their gradients are contiguous
  bool pixels;  // those that are read have their channels side by side, and x is channels_last
};
// The fastest algorithm for the call.
Plan plan_for(const Filter2dParams& p, int64_t element_bytes, const MemoryFormat& format);
// The algorithm that serves every call and all values.
Plan planar_plan(const Filter2dParams& p, int64_t element_bytes);
// How many tasks a sample is cut into in backward, where each has a sum of its own for the gradient of channel.
int64_t chunks_of(const Filter2dParams& p, const Tiles& tiles);

// Tasks for threads that may be of unequal speed. Each thread has a range of its own, neighbours in memory, and when
// that is done takes what others have not begun. What a task computes does not depend on which thread runs it.
class WorkQueue {
 public:
  explicit WorkQueue(int64_t count) : taken(count) {}
  int64_t count() const { return int64_t(taken.size()); }
  // True for exactly one caller, the one to run task i.
  bool take(int64_t i) {
    return !taken[i].load(std::memory_order_relaxed) && !taken[i].exchange(true, std::memory_order_relaxed);
  }

 private:
  std::vector<std::atomic<bool>> taken;
};

// One thread's view of the queue: its tasks [begin, end) in order, then the others', from the last one on. Passes
// receive it at its first task.
class Worker {
 public:
  Worker(WorkQueue& queue, int64_t begin, int64_t end) : queue(queue), at(begin - 1), end(end), others(queue.count()) {}
  // Goes to the next task; false: nothing is left.
  bool next() {
    while (at + 1 < end)
      if (queue.take(++at)) return current = at, true;
    while (others > 0)
      if (queue.take(--others)) return current = others, true;
    return false;
  }
  int64_t task() const { return current; }
  // Whether the task behind this one most likely comes next.
  bool goes_on() const { return current == at && at + 1 < end; }

 private:
  WorkQueue& queue;
  int64_t at, end, others, current = -1;
};

}  // namespace dynfilters::cpu
