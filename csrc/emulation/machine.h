// The emulated GPU: threads, warps, blocks and clusters, and what a thread can ask of them.
#pragma once

#include <vector_types.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "emulation/emulator.h"
#include "emulation/fiber.h"

namespace effkern::emulation {

inline constexpr int kWarpSize = 32;
inline constexpr unsigned kFullMask = 0xffffffffu;
inline constexpr int kMaxBlockThreads = 1024;
inline constexpr int kMaxClusterBlocks = 8;
inline constexpr int kBarriers = 16;

struct Block;
struct Thread;
struct Warp;

// Operands or results of a warp-wide operation.
union Registers {
  unsigned char bytes[64];
  float f32[16];
  uint32_t u32[16];
  uint64_t u64[8];
};

// Computes the results of all lanes in `group`; its address is the operation's identity.
using WarpOperation = void (*)(Thread* const* lanes, unsigned group);

enum class ThreadState : uint8_t { kReady, kWaiting, kDone };

// A cp.async whose bytes have not landed.
struct Copy {
  void* destination;
  unsigned char data[16];
  int bytes, group;
  Site site;
};

struct Thread {
  Fiber fiber;
  Block* block = nullptr;
  Warp* warp = nullptr;
  uint3 index{};
  // In the block.
  int id = -1;
  int lane = 0;
  ThreadState state = ThreadState::kDone;
  bool started = false;

  // What it waits for, or did last.
  const char* operation = "";
  Site site{"", 0};
  WarpOperation warp_operation = nullptr;
  unsigned mask = 0;
  bool converged = false, orders_memory = false;
  Registers in, out;

  std::vector<Copy> copies;
  int copy_group = 0;
  bool arrived_at_cluster = false;
  unsigned cluster_phase = 0;

  // For ThreadSanitizer: addresses that stand for an order between threads.
  char release = 0, group_release[2] = {};
  int group_parity = 0;
  char* acquire = nullptr;
};

struct Warp {
  unsigned live = 0, waiting = 0;
  uint32_t epoch = 0;
  Thread* lanes[kWarpSize] = {};
};

struct Barrier {
  int arrived = 0, predicates = 0, count = 0;
  Site site{"", 0};
  unsigned phase = 0;
  char order[2] = {};
  std::vector<Thread*> waiting;
};

// What was done to one 4-byte word of shared memory last, and when.
struct ShadowAccess {
  int16_t thread = -1;
  int16_t rank = 0;
  uint32_t epoch = 0, warp_epoch = 0, cluster_epoch = 0;
  Site site{"", 0};
};
struct ShadowWord {
  ShadowAccess write;
  // The first and the latest reader: if two threads have read, one is not the writer to come.
  ShadowAccess reads[2];
  // A cp.async is on its way here.
  const Thread* pending = nullptr;
  uint64_t pending_run = 0;
};

struct Block {
  uint3 index{};
  int rank = 0;
  int size = 0, alive = 0;
  uint32_t epoch = 0;
  // Named barriers order some threads only, which the race check cannot follow.
  bool used_named_barriers = false;
  std::vector<Thread*> threads;
  Warp warps[kMaxBlockThreads / kWarpSize];
  Barrier barriers[kBarriers];
  // Static arrays from the front, dynamic shared memory at the end, before an inaccessible page.
  char* shared = nullptr;
  std::vector<ShadowWord> shadow;

  Block();
  ~Block();
};

// Blocks that run together: a cluster, which without clusters is one block.
struct Group {
  LaunchShape shape;
  const void* kernel = nullptr;
  void (*body)(void*) = nullptr;
  void* arguments = nullptr;
  std::vector<Block*> blocks;
  int size = 0, alive = 0;
  uint32_t epoch = 0;
  // Counts groups over all launches.
  uint64_t run = 0;
  Barrier barrier;
  Thread scheduler;
  // Ready threads, a ring.
  std::vector<Thread*> queue;
  size_t first_ready = 0, ready = 0;
  uint64_t random = 1;
  std::string error;
  // Where it starts and where all its threads have ended, for ThreadSanitizer.
  char start = 0, end = 0;
};

// The running thread; null outside kernels. Launches are serialised, so one will do.
extern Thread* current;
extern Group* running;

// Ends the kernel: gives the message with kernel, block, thread and place to the launch.
[[noreturn]] __attribute__((format(printf, 2, 3))) void fault(Site site, const char* format, ...);

// Lets another thread run, until this one is ready again.
void wait();
void make_ready(Thread* thread);
// Now and then, in random order only: another thread overtakes this one.
void maybe_yield();

// __syncthreads for barrier 0 and count 0. Returns the number of threads whose predicate holds.
int barrier_sync(int barrier, int count, bool predicate, const char* name, Site site);
void barrier_arrive(int barrier, int count, const char* name, Site site);
void cluster_arrive(Site site);
void cluster_wait(Site site);

// All lanes of `mask` call it; the last to arrive computes for all. `converged`: the operation
// needs the whole warp at one place. `orders_memory`: as __syncwarp does.
Registers& warp_collective(WarpOperation operation, unsigned mask, const char* name, Site site,
                           bool converged = false, bool orders_memory = false);

// cp.async groups up to `last` of the running thread land.
void land_copies(int last);

// Shared memory (shared.cpp).
void start_shared(Block& block);
// Throws nothing; a written red zone between arrays ends up in Group::error.
void finish_shared(Block& block);
void forget_shared_layout();
// The block of the cluster whose shared memory holds `address`, or null.
Block* shared_owner(const void* address);

std::string kernel_name(const void* kernel);

}  // namespace effkern::emulation
