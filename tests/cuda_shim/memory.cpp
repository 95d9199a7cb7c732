// The checks of memory.h.
#include "memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "machine.h"

namespace shim::memory {

namespace {

constexpr size_t kGranule = 2;  // bytes, the smallest element
constexpr size_t kAround = size_t(16) << 30;  // of addresses on either side that no one else gets

// An access in the past. Times only ever grow, so that nothing is to be reset between blocks.
struct Access {
  uint32_t time = 0;
  int16_t thread = 0;  // or one of:
  static constexpr int16_t kManyOfWarp = 2000, kMany = 4000;
};
struct Granule {
  Access write, read;
  uint32_t landing = 0;  // if this is the block's start, an asynchronous copy is under way
};

struct Copy {
  void* target;
  const void* source;
  size_t bytes;
  uint32_t group;
  bool landed;
};
struct Copies {
  std::vector<Copy> pending;
  uint32_t group = 0, block = 0;  // the group being filled; the start of the block it is of
};

uint32_t now = 1, launch_start = 1, block_start = 1, block_time = 1, warp_time[kMaxWarps];
Copies copies[kMaxThreads];

bool reserved = true;  // all address space that was asked for

template <class T>
T* reserve(size_t count, int protection = PROT_READ | PROT_WRITE) {
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* const found = mmap(nullptr, count * sizeof(T), protection, flags, -1, 0);
  reserved &= found != MAP_FAILED;
  return static_cast<T*>(found);
}

unsigned char* reserve_global() {
  auto* const around = reserve<unsigned char>(2 * kAround, PROT_NONE);
  mprotect(around + kAround, kGlobal, PROT_READ | PROT_WRITE);
  return around + kAround;
}

unsigned char* const global_memory = reserve_global();
uint8_t* const use_map = reserve<uint8_t>(kGlobal);
Granule* const global_granules = reserve<Granule>(kGlobal / kGranule);
Granule* const shared_granules = reserve<Granule>(kSharedRoom / kGranule);

bool ordered(const Access& past, bool is_shared) {
  if (past.time < launch_start) return true;
  if (past.time < block_start) return is_shared;  // shared memory is another block's no longer
  if (past.time < block_time || past.thread == thread_id()) return true;
  const int warp = thread_id() / kWarp;
  const bool same = past.thread == Access::kManyOfWarp + warp ||
                    (past.thread < Access::kManyOfWarp && past.thread / kWarp == warp);
  return same && past.time < warp_time[warp];
}

void note_read(Access& read, bool is_shared) {
  const int16_t self = int16_t(thread_id()), many = int16_t(Access::kManyOfWarp + self / kWarp);
  if (ordered(read, is_shared))
    read.thread = self;
  else if (read.thread == many || (read.thread < Access::kManyOfWarp && read.thread / kWarp == self / kWarp))
    read.thread = many;
  else
    read.thread = Access::kMany;
  read.time = now;
}

[[noreturn]] void conflict(bool write, bool is_shared, size_t at, const char* with) {
  fail("%s of %s memory at byte %zu conflicts with %s", write ? "write" : "read", is_shared ? "shared" : "global", at,
       with);
}

void check_races(bool is_shared, size_t at, size_t bytes, bool write) {
  Granule* const granules = is_shared ? shared_granules : global_granules;
  for (Granule* g = granules + at / kGranule; g <= granules + (at + bytes - 1) / kGranule; ++g) {
    const size_t place = (g - granules) * kGranule;
    if (is_shared && g->landing == block_start) conflict(write, true, place, "an asynchronous copy under way");
    if (!ordered(g->write, is_shared))
      conflict(write, is_shared, place, "a write of another thread and no barrier between");
    if (write && !ordered(g->read, is_shared))
      conflict(true, is_shared, place, "a read of another thread and no barrier between");
    if (write)
      g->write = {now, int16_t(thread_id())};
    else
      note_read(g->read, is_shared);
  }
}

void check_global(const unsigned char* address, size_t bytes, bool write) {
  const char* const kind = write ? "write" : "read";
  const int64_t at = address - global_memory;
  if (at < 0 || at + bytes > kGlobal) fail("%s far outside all operands, at byte %lld", kind, (long long)at);
  for (size_t i = at; i < at + bytes; ++i) {
    if (!(use_map[i] & kMapped))
      fail("%s of %zu bytes, at byte %lld, outside all operands", kind, bytes, (long long)at);
    if (write && !(use_map[i] & kWritable))
      fail("write of %zu bytes to what is not an output, at byte %lld", bytes, (long long)at);
    if (write) use_map[i] |= kWritten;
  }
  check_races(false, at, bytes, write);
}

void check_shared(size_t at, size_t bytes, bool write) {
  if (at + bytes > shared_declared)
    fail("%s of shared memory at byte %zu, %zu were asked for", write ? "write" : "read", at, shared_declared);
  check_races(true, at, bytes, write);
}

size_t in_shared(const void* address) {  // how far from its beginning; huge if outside
  return size_t(static_cast<const unsigned char*>(address) - shared);
}

void mark_landing(const Copy& copy, uint32_t value) {
  const size_t at = in_shared(copy.target) / kGranule;
  for (size_t i = 0; i < copy.bytes / kGranule; ++i) shared_granules[at + i].landing = value;
}

void land(const Copy& copy) {
  if (copy.source)
    memcpy(copy.target, copy.source, copy.bytes);
  else
    memset(copy.target, 0, copy.bytes);
}

Copies& own_copies() {
  Copies& own = copies[thread_id()];
  if (own.block != block_start) own = Copies{{}, 0, block_start};
  return own;
}

}  // namespace

unsigned char* global() { return reserved ? global_memory : nullptr; }
uint8_t* uses() { return use_map; }
void forget_operands() { madvise(use_map, kGlobal, MADV_DONTNEED); }

void begin_launch() { launch_start = ++now; }

void begin_block() {
  block_start = block_time = ++now;
  std::fill(warp_time, warp_time + kMaxWarps, now);
  memset(shared, 0xff, shared_declared);  // not a number, in every type
}

void order_block() { block_time = ++now; }
void order_warp(int warp) { warp_time[warp] = ++now; }

void touch(const void* address, size_t bytes, bool write, bool aligned) {
  if (!running()) return;
  const size_t shared_at = in_shared(address);
  const auto* byte = static_cast<const unsigned char*>(address);
  const bool is_global = size_t(byte - global_memory) + kAround < 2 * kAround, is_shared = shared_at < kSharedRoom;
  if (!is_global && !is_shared) return;  // the thread's own stack, the kernel's parameters
  if (aligned && reinterpret_cast<uintptr_t>(address) % bytes)
    fail("%s of %zu bytes at an address that is no multiple of them", write ? "write" : "read", bytes);
  if (is_shared)
    check_shared(shared_at, bytes, write);
  else
    check_global(byte, bytes, write);
}

void copy_async(void* target, const void* source, size_t bytes) {
  if (in_shared(target) >= kSharedRoom) fail("copy_async: the target is not in shared memory");
  touch(target, bytes, true, true);
  if (source) touch(source, bytes, false, true);
  Copies& own = own_copies();
  own.pending.push_back({target, source, bytes, own.group, !settings.late_copies});
  mark_landing(own.pending.back(), block_start);
  if (!settings.late_copies) land(own.pending.back());
}

void commit_copies() { ++own_copies().group; }

void wait_copies(int groups_under_way) {
  Copies& own = own_copies();
  auto is_due = [&](const Copy& copy) { return copy.group + groups_under_way < own.group; };
  for (const Copy& copy : own.pending)
    if (is_due(copy)) {
      if (!copy.landed) land(copy);
      mark_landing(copy, 0);
      touch(copy.target, copy.bytes, true, true);
    }
  std::erase_if(own.pending, is_due);
}

}  // namespace shim::memory

// What the compiler calls.
#define DYNFILTERS_TOUCH(...) (shim::set_place(__builtin_return_address(0)), shim::memory::touch(__VA_ARGS__))
#define DYNFILTERS_ACCESS(bytes)                                                        \
  void __tsan_read##bytes(void* p) { DYNFILTERS_TOUCH(p, bytes, false, true); }         \
  void __tsan_write##bytes(void* p) { DYNFILTERS_TOUCH(p, bytes, true, true); }         \
  void __tsan_unaligned_read##bytes(void* p) { DYNFILTERS_TOUCH(p, bytes, false, false); } \
  void __tsan_unaligned_write##bytes(void* p) { DYNFILTERS_TOUCH(p, bytes, true, false); }

extern "C" {

DYNFILTERS_ACCESS(1)
DYNFILTERS_ACCESS(2)
DYNFILTERS_ACCESS(4)
DYNFILTERS_ACCESS(8)
DYNFILTERS_ACCESS(16)
void __tsan_read_range(void* p, size_t bytes) { DYNFILTERS_TOUCH(p, bytes, false, false); }
void __tsan_write_range(void* p, size_t bytes) { DYNFILTERS_TOUCH(p, bytes, true, false); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void*, void*) {}
}
