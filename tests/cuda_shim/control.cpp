// What Python calls to set the device up and to ask what went wrong.
#include "machine.h"
#include "memory.h"

extern "C" {

unsigned char* shim_global() { return shim::memory::global(); }
size_t shim_global_bytes() { return shim::memory::kGlobal; }
unsigned char* shim_uses() { return shim::memory::uses(); }

void shim_reset(int order, uint64_t seed, bool late_copies, size_t shared_limit) {
  shim::settings = {shim::Order(order), seed, late_copies, shared_limit};
  shim::launches = 0;
  shim::forget_failure();
  shim::memory::forget_operands();
}

int shim_launches() { return shim::launches; }
const char* shim_failure() { return shim::failure(); }
}
