// Tasks for threads that may be of unequal speed. Each thread has a range of its own, neighbours in memory, and when
// that is done takes what others have not begun. What a task computes does not depend on which thread runs it.
#pragma once
#include <atomic>
#include <cstdint>
#include <vector>

namespace dynfilters::cpu {

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
