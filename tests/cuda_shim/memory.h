// What each byte of global and shared memory is for, and who touched it last.
//
// The kernels are compiled with -fsanitize=thread, but without its library: the functions that the
// compiler has called before each access are ours. They check bounds, alignment and permission,
// and that a barrier stands between two accesses by different threads to the same place of
// which one is a write.
#pragma once
#include <cstddef>
#include <cstdint>

namespace shim::memory {

// What a byte of global memory is for; unmapped where 0.
enum Use : uint8_t { kMapped = 1, kElement = 2, kWritable = 4, kWritten = 8 };

constexpr size_t kGlobal = size_t(8) << 30;  // bytes of global memory, most of them never used
unsigned char* global();  // null where there is too little address space
uint8_t* uses();
void forget_operands();

void begin_launch();
void begin_block();
// What has been done so far happens before what is done from now on, by all or by one warp.
void order_block();
void order_warp(int warp);

// Checks an access of the current thread that is about to happen.
void touch(const void* address, size_t bytes, bool write, bool aligned);

// cp.async: to shared memory, from `source`, or zeros without it.
void copy_async(void* target, const void* source, size_t bytes);
void commit_copies();
void wait_copies(int groups_under_way);

}  // namespace shim::memory
