// Memory transactions of kernels, counted through the access wrappers while Settings::count is set.
#pragma once

#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include "emulation/device.h"

namespace effkern::emulation {

struct GlobalCounters {
  // Instructions of a warp; 32-byte sectors that they touch, added over requests; the same, each
  // sector once per block; bytes that the threads asked for.
  uint64_t requests = 0, sectors = 0, unique_sectors = 0, bytes = 0;
};

struct SharedCounters {
  // Passes through the 32 banks, and the fewest that could move the same words.
  uint64_t requests = 0, wavefronts = 0, min_wavefronts = 0;
};

struct KernelCounters {
  std::string kernel;
  uint64_t launches = 0, blocks = 0, threads = 0;
  GlobalCounters loads, stores;
  SharedCounters shared_loads, shared_stores;
  // Warp-wide instructions: mma.sync and ldmatrix or stmatrix.
  uint64_t mma = 0, matrix_moves = 0;
};

// Of every kernel launched since the last reset, in the order of their first launch.
const std::vector<KernelCounters>& counters();
void reset_counters();
void write_json(std::ostream& out, const KernelCounters& counters);

// For the emulator.
void start_counting(const std::string& kernel, uint64_t threads_per_block);
void finish_counting_group();
void count_global(const void* address, size_t bytes, Access access, Site site, bool active);
// `offset` in the block's shared memory.
void count_shared(size_t offset, size_t bytes, Access access, Site site);
void count_mma();
void count_matrix_move();

}  // namespace effkern::emulation
