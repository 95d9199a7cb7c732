// Tasks for threads that may be of unequal speed. Each has a share of its own, neighbours in memory, and when that is
// done takes what others have not begun. What a task computes does not depend on who does it.
#pragma once
#include <atomic>
#include <cstdint>
#include <vector>

namespace dynfilters::cpu {

class Tasks {
 public:
  explicit Tasks(int64_t count) : taken(count) {}
  int64_t count() const { return int64_t(taken.size()); }
  // Whether the caller is the one to do task i.
  bool take(int64_t i) {
    return !taken[i].load(std::memory_order_relaxed) && !taken[i].exchange(true, std::memory_order_relaxed);
  }

 private:
  std::vector<std::atomic<bool>> taken;
};

// The tasks of one thread: [begin, end) in order, then the others', from the last one on. Passes get it at the first.
class Share {
 public:
  Share(Tasks& tasks, int64_t begin, int64_t end) : all(tasks), at(begin - 1), end(end), others(tasks.count()) {}
  // Goes to the next task; false: nothing is left.
  bool next() {
    while (at + 1 < end)
      if (all.take(++at)) return current = at, true;
    while (others > 0)
      if (all.take(--others)) return current = others, true;
    return false;
  }
  int64_t task() const { return current; }
  // Whether the task behind this one most likely comes next.
  bool goes_on() const { return current == at && at + 1 < end; }

 private:
  Tasks& all;
  int64_t at, end, others, current = -1;
};

}  // namespace dynfilters::cpu
