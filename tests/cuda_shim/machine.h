// A CUDA device made of fibers, as unkind as the programming model allows: blocks run one after
// another, and within a block one warp runs as far as it can before another may start. Every
// access of a kernel to shared or global memory is checked (memory.h).
#pragma once
#include <cstddef>
#include <cstdint>
#include <source_location>

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace shim {

using Where = std::source_location;

constexpr int kMaxThreads = 1024, kWarp = 32, kMaxWarps = kMaxThreads / kWarp;
constexpr size_t kSharedRoom = size_t(1) << 20;  // of addresses; no more than the limit is usable

enum class Order : int { kAscending, kDescending, kRandom };

struct Settings {
  Order order = Order::kAscending;  // of blocks, of warps in a block, of lanes in a warp
  uint64_t seed = 0;                // of Order::kRandom
  bool late_copies = true;          // asynchronous copies land at the wait, else at once
  size_t shared_limit = 232448;     // bytes a block may ask for
};
extern Settings settings;
extern int launches;  // since the settings were made

// What a lane brought to a meeting of its warp.
struct Slot {
  alignas(16) unsigned char value[16];
};

// Runs body once for each thread of the grid. No-op after a failure.
void run(dim3 grid, dim3 block, size_t shared_bytes, size_t parameter_bytes, void (*body)(void*), void* argument);

// Ends the launch, for good.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
void set_place(const void* code);  // where the kernel is, for the message
const char* failure();             // null while all is well
void forget_failure();

// The current thread waits for all others of its block.
void meet_block(Where where);
// The current thread waits for the other lanes of its warp; returns the values of all 32.
// Orders memory between the lanes only if `fence`: a shuffle does not.
const Slot* meet_warp(const char* what, const void* value, size_t bytes, bool fence, Where where);

extern int current;             // thread of the block; negative outside kernels
extern size_t shared_declared;  // bytes that the launch asked for
alignas(4096) extern unsigned char shared[kSharedRoom];

inline bool running() { return current >= 0; }
inline int thread_id() { return current; }
inline int lane_id() { return current % kWarp; }

}  // namespace shim

extern dim3 threadIdx, blockIdx, blockDim, gridDim;
