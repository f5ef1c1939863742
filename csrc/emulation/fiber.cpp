#include "emulation/fiber.h"

#include <pthread.h>
#include <sys/mman.h>

#include <new>

namespace effkern::emulation {
namespace {

constexpr size_t kPage = 4096;
#if defined(EFFKERN_EMULATION_ASAN) || defined(EFFKERN_EMULATION_TSAN)
// Instrumented frames are several times larger.
constexpr size_t kStackSize = 256 << 10;
#else
constexpr size_t kStackSize = 64 << 10;
#endif

}  // namespace

// System V ABI: only the callee-saved registers survive a call, and the signal mask stays, so that
// a switch is a dozen instructions and no system call.
__attribute__((naked, noinline)) static void swap_stacks(void** /*save*/, void* /*load*/) {
  asm volatile(
      "pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
      "movq %rsp, (%rdi)\n movq %rsi, %rsp\n"
      "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret\n");
}

void Fiber::allocate(const char* name) {
  stack_size = kStackSize;
  void* memory = mmap(nullptr, stack_size + kPage, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, kPage, PROT_NONE)) throw std::bad_alloc();
  stack = static_cast<char*>(memory) + kPage;
  (void)name;
  EFFKERN_TSAN(tsan = __tsan_create_fiber(0); __tsan_set_fiber_name(tsan, name);)
}

void Fiber::prepare(void (*entry)(), unsigned color) {
  EFFKERN_ASAN(__asan_unpoison_memory_region(stack, stack_size);)
  auto** top = reinterpret_cast<void**>(stack + stack_size - (color * 7 & 63) * 64);
  // A null return address, `entry`, and what swap_stacks pops. At `entry` the stack is aligned as
  // after a call.
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  stack_pointer = top;
}

void Fiber::adopt_thread() {
#ifdef EFFKERN_EMULATION_ASAN
  pthread_attr_t attributes;
  void* lowest;
  pthread_getattr_np(pthread_self(), &attributes);
  pthread_attr_getstack(&attributes, &lowest, &stack_size);
  pthread_attr_destroy(&attributes);
  stack = static_cast<char*>(lowest);
#endif
  EFFKERN_TSAN(tsan = __tsan_get_current_fiber();)
}

void switch_fiber(Fiber& from, Fiber& to, bool ends) {
  (void)ends;
  EFFKERN_ASAN(
      __sanitizer_start_switch_fiber(ends ? nullptr : &from.fake_stack, to.stack, to.stack_size);)
  // 1: the switch orders nothing; only barriers do.
  EFFKERN_TSAN(__tsan_switch_to_fiber(to.tsan, 1);)
  swap_stacks(&from.stack_pointer, to.stack_pointer);
  EFFKERN_ASAN(__sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);)
}

void arrive_on_new_fiber() {
  EFFKERN_ASAN(__sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);)
}

}  // namespace effkern::emulation
