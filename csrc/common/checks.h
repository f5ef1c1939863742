// Errors on torch's stable ABI. With dispatch of the C shim the only code that includes torch.
#pragma once

#include <torch/csrc/stable/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <sstream>
#include <stdexcept>

// Added in torch 2.13, null before: the message of the libtorch call that failed.
extern "C" __attribute__((weak)) const char* torch_exception_get_what_without_backtrace();

namespace effkern {

// std::runtime_error becomes RuntimeError in Python.
template <class... Parts>
[[noreturn]] __attribute__((noinline, cold)) void fail(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

[[noreturn]] __attribute__((noinline, cold)) inline void fail_shim(const char* call) {
  const char* what = torch_exception_get_what_without_backtrace
                         ? torch_exception_get_what_without_backtrace()
                         : nullptr;
  fail("effkern: a PyTorch call failed: ", what ? what : call);
}

}  // namespace effkern

#define EFFKERN_CHECK(condition, ...)                                    \
  do {                                                                   \
    if (__builtin_expect(!(condition), 0)) ::effkern::fail(__VA_ARGS__); \
  } while (0)
#define EFFKERN_SHIM(call)                                                         \
  do {                                                                             \
    if (__builtin_expect((call) != TORCH_SUCCESS, 0)) ::effkern::fail_shim(#call); \
  } while (0)
