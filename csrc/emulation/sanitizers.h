// Hooks that tell the sanitizers about fibers. The emulator itself is compiled without
// instrumentation: its own state is not the kernel's.
#pragma once

#ifdef EFFKERN_EMULATION_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define EFFKERN_ASAN(...) __VA_ARGS__
#else
#define EFFKERN_ASAN(...)
#endif

#ifdef EFFKERN_EMULATION_TSAN
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_set_fiber_name(void* fiber, const char* name);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#define EFFKERN_TSAN(...) __VA_ARGS__
#else
#define EFFKERN_TSAN(...)
#endif

namespace effkern::emulation {

// While the emulator allocates or copies on a CUDA thread's stack: ThreadSanitizer sees the C
// library's functions even when their callers are not instrumented.
class NotTheKernel {
 public:
  NotTheKernel() {
    EFFKERN_TSAN(AnnotateIgnoreReadsBegin("", 0); AnnotateIgnoreWritesBegin("", 0);)
  }
  ~NotTheKernel() { EFFKERN_TSAN(AnnotateIgnoreWritesEnd("", 0); AnnotateIgnoreReadsEnd("", 0);) }
};

}  // namespace effkern::emulation
