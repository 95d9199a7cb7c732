// Fibers and their scheduler. See machine.h.
#include "machine.h"

#include <dlfcn.h>
#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "memory.h"

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace shim {

Settings settings;
int launches = 0;
int current = -1;
size_t shared_declared = 0;
unsigned char shared[kSharedRoom];

namespace {

constexpr size_t kStack = 256 << 10, kPage = 4096;

enum class State { kReady, kAtBlock, kAtWarp, kDone };

struct Fiber {
  jmp_buf registers;
  ucontext_t start;
  bool fresh = false;  // to begin at `start`
  State state = State::kDone;
  // What it waits for.
  const char* what = nullptr;
  size_t bytes = 0;
  bool fence = false;
  Where where;
};

struct Device {
  std::vector<Fiber> fibers{kMaxThreads};
  Fiber scheduler;
  int count = 0;
  Slot brought[kMaxThreads], slots[kMaxThreads];
  void (*body)(void*) = nullptr;
  void* argument = nullptr;
  std::mt19937_64 random;
  bool failed = false;
  const char* place = nullptr;  // in the machine code of the kernel
  char message[1024];
};

Device device;

__attribute__((noinline)) void transfer(Fiber& from, Fiber& to) {
  if (_setjmp(from.registers)) return;
  if (to.fresh) {
    to.fresh = false;
    setcontext(&to.start);
  }
  _longjmp(to.registers, 1);
}

// A fiber lives on from block to block.
void fiber_main() {
  for (;;) {
    device.body(device.argument);
    Fiber& self = device.fibers[current];
    self.state = State::kDone;
    transfer(self, device.scheduler);
  }
}

// Each stack has an unmapped page below it.
unsigned char* stacks() {
  static unsigned char* base = [] {
    const size_t bytes = kMaxThreads * (kStack + kPage);
    void* found = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    auto* first = static_cast<unsigned char*>(found);
    for (int i = 0; i < kMaxThreads; ++i) mprotect(first + i * (kStack + kPage), kPage, PROT_NONE);
    return first;
  }();
  return base;
}

void make_fiber(int i) {
  Fiber& fiber = device.fibers[i];
  fiber.fresh = true;
  getcontext(&fiber.start);
  fiber.start.uc_stack.ss_sp = stacks() + i * (kStack + kPage) + kPage;
  fiber.start.uc_stack.ss_size = kStack;
  fiber.start.uc_link = nullptr;
  makecontext(&fiber.start, fiber_main, 0);
}

std::vector<int> in_order(int count) {
  std::vector<int> found(count);
  std::iota(found.begin(), found.end(), 0);
  if (settings.order == Order::kDescending) std::reverse(found.begin(), found.end());
  if (settings.order == Order::kRandom) std::shuffle(found.begin(), found.end(), device.random);
  return found;
}

dim3 index_in(int64_t i, dim3 size) {
  return dim3(unsigned(i % size.x), unsigned(i / size.x % size.y), unsigned(i / size.x / size.y));
}

void resume(int i) {
  current = i;
  threadIdx = index_in(i, blockDim);
  transfer(device.scheduler, device.fibers[i]);
  current = -1;
}

void describe(char* text, size_t room, int first, int last) {
  size_t used = 0;
  for (int i = first; i < last && used < room; ++i) {
    const Fiber& f = device.fibers[i];
    const Fiber* before = i > first ? &device.fibers[i - 1] : nullptr;
    const bool same = before && before->state == f.state;
    if (same && (f.state == State::kDone || before->where.line() == f.where.line())) continue;
    if (f.state == State::kDone)
      used += snprintf(text + used, room - used, " from thread %d: returned;", i);
    else
      used += snprintf(text + used, room - used, " from thread %d: waits at %s, %s:%u;", i, f.what, f.where.file_name(),
                       unsigned(f.where.line()));
  }
}

void diverged(const char* what, int first, int last) {
  char text[512] = "";
  describe(text, sizeof text, first, last);
  fail("block (%u, %u, %u): %s not all threads come:%s", blockIdx.x, blockIdx.y, blockIdx.z, what, text);
}

// If every live lane of the warp is at the same meeting, lets them go on.
bool release_warp(int warp) {
  const int first = warp * kWarp, last = std::min(first + kWarp, device.count);
  const Fiber* waiting = nullptr;
  for (int i = first; i < last; ++i) {
    const Fiber& f = device.fibers[i];
    if (f.state == State::kDone) continue;
    if (f.state != State::kAtWarp) {
      if (waiting) diverged("to a meeting of the warp", first, last);
      for (int j = i; j < last; ++j)
        if (device.fibers[j].state == State::kAtWarp) diverged("to a meeting of the warp", first, last);
      return false;
    }
    if (waiting && (strcmp(waiting->what, f.what) || waiting->bytes != f.bytes))
      diverged("to the same meeting of the warp", first, last);
    waiting = &f;
  }
  if (!waiting) return false;
  if (waiting->fence) memory::order_warp(warp);
  for (int i = first; i < first + kWarp; ++i) {
    const bool live = i < last && device.fibers[i].state == State::kAtWarp;
    memset(&device.slots[i], 0xff, sizeof(Slot));  // what an absent lane gives
    if (live) device.slots[i] = device.brought[i], device.fibers[i].state = State::kReady;
  }
  return true;
}

void run_warp(int warp) {
  const int first = warp * kWarp, lanes = std::min(kWarp, device.count - first);
  do {
    for (int lane : in_order(lanes))
      if (device.fibers[first + lane].state == State::kReady) resume(first + lane);
  } while (release_warp(warp));
}

void run_block() {
  for (int i = 0; i < device.count; ++i) device.fibers[i].state = State::kReady;
  memory::begin_block();
  for (;;) {
    for (int warp : in_order((device.count + kWarp - 1) / kWarp)) run_warp(warp);
    int waiting = 0;
    for (int i = 0; i < device.count; ++i) waiting += device.fibers[i].state == State::kAtBlock;
    if (waiting == 0) return;
    if (waiting < device.count) diverged("to a barrier of the block", 0, device.count);
    memory::order_block();
    for (int i = 0; i < device.count; ++i) device.fibers[i].state = State::kReady;
  }
}

void check_launch(dim3 grid, dim3 block, size_t shared_bytes, size_t parameter_bytes) {
  const int64_t threads = int64_t(block.x) * block.y * block.z;
  if (!grid.x || !grid.y || !grid.z || grid.x > 2147483647u || grid.y > 65535 || grid.z > 65535)
    fail("launch: no grid of (%u, %u, %u) blocks", grid.x, grid.y, grid.z);
  if (threads < 1 || threads > kMaxThreads || block.z > 64)
    fail("launch: no block of (%u, %u, %u) threads", block.x, block.y, block.z);
  if (shared_bytes > settings.shared_limit)
    fail("launch: %zu bytes of shared memory, the limit is %zu", shared_bytes, settings.shared_limit);
  if (parameter_bytes > 4096) fail("launch: %zu bytes of parameters, the limit is 4096", parameter_bytes);
}

void run_grid() {
  const int64_t blocks = int64_t(gridDim.x) * gridDim.y * gridDim.z;
  if (blocks > 1 << 22) fail("launch: %lld blocks are too many for the shim", (long long)blocks);
  for (int block : in_order(int(blocks))) {
    blockIdx = index_in(block, gridDim);
    run_block();
  }
}

void wait(State state, const char* what, size_t bytes, bool fence, Where where) {
  if (!running()) fail("%s outside a kernel", what);
  Fiber& self = device.fibers[current];
  self.state = state, self.what = what, self.bytes = bytes, self.fence = fence, self.where = where;
  transfer(self, device.scheduler);
}

jmp_buf host;

}  // namespace

void run(dim3 grid, dim3 block, size_t shared_bytes, size_t parameter_bytes, void (*body)(void*), void* argument) {
  if (device.failed) return;
  // A failure leaves by this door; the fibers it left half way are made anew.
  static std::vector<bool> made(kMaxThreads);
  if (_setjmp(host)) {
    made.assign(kMaxThreads, false);
    current = -1;
    return;
  }
  check_launch(grid, block, shared_bytes, parameter_bytes);
  ++launches;
  gridDim = grid, blockDim = block;
  device.count = int(block.x * block.y * block.z);
  device.body = body, device.argument = argument, shared_declared = shared_bytes;
  device.random.seed(settings.seed);
  for (int i = 0; i < device.count; ++i)
    if (!made[i]) make_fiber(i), made[i] = true;
  memory::begin_launch();
  run_grid();
}

void fail(const char* format, ...) {
  char text[900];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  device.failed = true;
  Dl_info library{};
  if (running() && device.place && dladdr(device.place, &library))
    snprintf(device.message, sizeof device.message, "thread (%u, %u, %u) of block (%u, %u, %u): %s; at 0x%tx",
             threadIdx.x, threadIdx.y, threadIdx.z, blockIdx.x, blockIdx.y, blockIdx.z, text,
             device.place - static_cast<const char*>(library.dli_fbase));
  else
    snprintf(device.message, sizeof device.message, "%s", text);
  _longjmp(host, 1);
}

void set_place(const void* code) { device.place = static_cast<const char*>(code) - 1; }  // before the return

const char* failure() { return device.failed ? device.message : nullptr; }
void forget_failure() { device.failed = false; }

void meet_block(Where where) { wait(State::kAtBlock, "a barrier of the block", 0, true, where); }

const Slot* meet_warp(const char* what, const void* value, size_t bytes, bool fence, Where where) {
  if (bytes > sizeof(Slot)) fail("%s of %zu bytes", what, bytes);
  if (running() && bytes) memcpy(&device.brought[current], value, bytes);
  wait(State::kAtWarp, what, bytes, fence, where);
  return device.slots + current / kWarp * kWarp;
}

}  // namespace shim
