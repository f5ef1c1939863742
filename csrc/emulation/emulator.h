// CUDA kernels on the CPU, for tests: what a host program sees of the emulator. See README.md.
#pragma once

#include <driver_types.h>
#include <vector_types.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "emulation/site.h"

namespace effkern::emulation {

// In which order the threads of a block, and the blocks of a grid, get to run. A thread runs until
// it waits for others, so that the skew between threads is as large as it can be.
enum class Order { kForward, kReverse, kRandom };

struct Settings {
  Order order = Order::kForward;
  uint64_t seed = 1;
  // Fails a kernel whose threads meet in shared memory without a barrier between them.
  bool check_races = true;
  // Fails a kernel that takes a way which only infinities and NaN lead to: with finite inputs, they
  // come from memory that nobody wrote.
  bool finite = false;
  // Counts memory transactions (counters.h).
  bool count = false;
  // Of the emulated device: sm_90. EFFKERN_EMULATION_MAX_THREADS makes it a smaller one.
  unsigned max_threads = 1024;
  size_t max_shared = 227 << 10;

  // EFFKERN_EMULATION_ORDER: forward, reverse, random or random:<seed>. Throws
  // std::invalid_argument.
  void set_order(const std::string& text);
};
// Not to be changed while a kernel runs.
Settings& settings();

struct LaunchShape {
  dim3 grid, block;
  // Dynamic shared memory in bytes.
  size_t shared = 0;
  dim3 cluster{1, 1, 1};
};

// Runs body(arguments) once per thread and returns when all have ended. Launches are serialised
// over the process. cudaErrorInvalidConfiguration or cudaErrorInvalidValue: nothing ran;
// cudaErrorLaunchFailure: the kernel did something wrong. last_error() says what.
cudaError_t launch(const LaunchShape& shape, const void* kernel, void (*body)(void*),
                   void* arguments);
// Only the checks of a launch.
cudaError_t check_launch(const LaunchShape& shape, const void* kernel);
// More than 48 KiB of dynamic shared memory for `kernel`, as cudaFuncSetAttribute.
cudaError_t allow_shared_memory(const void* kernel, size_t bytes);

// Of the calling thread's latest launch; empty if nothing was wrong.
const std::string& last_error();

// Global memory that kernels may touch. While any buffer is declared, an access elsewhere fails.
struct Buffer {
  const void* begin;
  size_t bytes;
  std::string name;
  bool writable;
  // One byte per `granularity` bytes of the buffer, zero where they lie between the elements of a
  // view; empty if all belong to it.
  std::vector<unsigned char> mask = {};
  size_t granularity = 1;
};

// Declares buffers for the launches of the calling thread while it lives.
class DeclaredBuffers {
 public:
  explicit DeclaredBuffers(std::vector<Buffer> buffers);
  ~DeclaredBuffers();
  DeclaredBuffers(const DeclaredBuffers&) = delete;
  DeclaredBuffers& operator=(const DeclaredBuffers&) = delete;
};

// `bytes` of poison (NaN in every floating-point type) that end at an inaccessible page; under
// AddressSanitizer, a heap block of that size. Not poisoned, pages that nobody touches take no
// memory. Throws std::bad_alloc.
class GuardedMemory {
 public:
  explicit GuardedMemory(size_t bytes, size_t alignment = 16, bool poisoned = true);
  ~GuardedMemory();
  GuardedMemory(const GuardedMemory&) = delete;
  GuardedMemory& operator=(const GuardedMemory&) = delete;

  void* data() const { return data_; }
  size_t size() const { return bytes_; }

 private:
  void* data_ = nullptr;
  void* map_ = nullptr;
  size_t bytes_ = 0, map_bytes_ = 0;
};

inline constexpr unsigned char kPoison = 0xff;

}  // namespace effkern::emulation
