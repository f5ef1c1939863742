// Launches that are described instead of made: what a launcher asks for, where there is no device.
#pragma once

#include <cstddef>
#include <cstdint>

namespace effkern {

// `kernel` is __PRETTY_FUNCTION__ of a template with the kernel as its argument, or null where the
// launcher does not tell it.
struct PlannedLaunch {
  const char* kernel;
  int64_t blocks, threads, shared_memory;
};

struct PlannedLaunches {
  static constexpr int kMost = 8;
  PlannedLaunch launches[kMost];
  int count = 0;

  void add(const PlannedLaunch& launch) {
    if (count < kMost) launches[count++] = launch;
  }
};

namespace detail {

// Where the calling thread's launches are described; null: they are made.
inline thread_local PlannedLaunches* planned_launches = nullptr;

template <auto kKernel>
const char* kernel_text() {
  return __PRETTY_FUNCTION__;
}

}  // namespace detail

// Between its construction and destruction the calling thread's launches are described.
class LaunchPlanner {
 public:
  explicit LaunchPlanner(PlannedLaunches* to) : before_(detail::planned_launches) {
    detail::planned_launches = to;
  }
  ~LaunchPlanner() { detail::planned_launches = before_; }
  LaunchPlanner(const LaunchPlanner&) = delete;
  LaunchPlanner& operator=(const LaunchPlanner&) = delete;

 private:
  PlannedLaunches* before_;
};

}  // namespace effkern
