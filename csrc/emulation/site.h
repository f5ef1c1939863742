// Where in a kernel's source something happens.
#pragma once

namespace effkern::emulation {

struct Site {
  const char* file;
  int line;

  // As a default argument: the place of the call that the argument belongs to.
  static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

}  // namespace effkern::emulation
