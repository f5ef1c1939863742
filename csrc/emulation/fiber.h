// A stack of its own for each CUDA thread, and the switch between them.
#pragma once

#include <cstddef>

#include "emulation/sanitizers.h"

#if !defined(__x86_64__) || !defined(__linux__)
#error "the CUDA emulator needs Linux on x86-64"
#endif

namespace effkern::emulation {

struct Fiber {
  void* stack_pointer = nullptr;
  char* stack = nullptr;
  size_t stack_size = 0;
  // Of AddressSanitizer and ThreadSanitizer.
  void* fake_stack = nullptr;
  void* tsan = nullptr;

  // Maps a stack that ends at an inaccessible page; throws std::bad_alloc.
  void allocate(const char* name);
  // The next switch to the fiber calls `entry`, which never returns. `color` shifts the stack's
  // first address: equal ones would compete for the same cache sets.
  void prepare(void (*entry)(), unsigned color);
  // Describes the calling thread's own stack, to switch back to.
  void adopt_thread();
};

// Saves the running fiber in `from` and continues `to`. `ends`: `from` is never continued.
void switch_fiber(Fiber& from, Fiber& to, bool ends);
// First on a new fiber's stack.
void arrive_on_new_fiber();

}  // namespace effkern::emulation
