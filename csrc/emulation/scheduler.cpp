#include "emulation/scheduler.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>

#include "emulation/counters.h"

namespace effkern::emulation {

Thread* current = nullptr;
Group* running = nullptr;

namespace {

uint32_t next_random(Group& group) {
  group.random ^= group.random << 13;
  group.random ^= group.random >> 7;
  group.random ^= group.random << 17;
  return uint32_t(group.random >> 32);
}

// The next thread to run: the first that became ready, or any.
Thread* take_ready(Group& group) {
  if (group.ready == 0) return nullptr;
  const size_t size = group.queue.size();
  Thread*& first = group.queue[group.first_ready % size];
  Thread* taken = first;
  if (settings().order == Order::kRandom) {
    Thread*& any = group.queue[(group.first_ready + next_random(group) % group.ready) % size];
    taken = any;
    any = first;
  }
  ++group.first_ready;
  --group.ready;
  return taken;
}

void switch_to(Thread* to, bool ends = false) {
  Thread* from = current;
  current = to;
  switch_fiber(from->fiber, to->fiber, ends);
}

void end_thread() {
  Thread* me = current;
  Block* block = me->block;
  land_copies(INT32_MAX);
  --block->alive;
  --running->alive;
  me->warp->live &= ~(1u << me->lane);
  me->state = ThreadState::kDone;
  EFFKERN_TSAN(__tsan_release(&running->end);)
}

bool try_collective(Thread* thread);

void thread_main() {
  arrive_on_new_fiber();
  for (;;) {
    Thread* me = current;
    EFFKERN_TSAN(__tsan_acquire(&running->start);)
    running->body(running->arguments);
    end_thread();
    // The lanes that wait may have waited for this one only.
    for (int lane = 0; lane < kWarpSize; ++lane) {
      if (me->warp->waiting >> lane & 1) try_collective(me->warp->lanes[lane]);
    }
    Thread* next = take_ready(*running);
#ifndef EFFKERN_EMULATION_TSAN
    // A thread that has not started takes over this stack: kernels without barriers hardly switch.
    if (next && !next->started) {
      std::swap(me->fiber, next->fiber);
      next->started = true;
      current = next;
      continue;
    }
#endif
    if (next) next->started = true;
    switch_to(next ? next : &running->scheduler, true);
  }
}

// Whether all that `thread` waits for have come; then the operation is done for the group.
bool try_collective(Thread* thread) {
  Warp& warp = *thread->warp;
  const unsigned group = thread->mask & warp.live;
  if ((warp.waiting & group) != group) return false;
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (!(group >> lane & 1)) continue;
    const Thread& other = *warp.lanes[lane];
    const bool elsewhere = thread->converged && other.site.line != thread->site.line;
    if (other.warp_operation != thread->warp_operation || other.mask != thread->mask || elsewhere) {
      fault(thread->site,
            "warp divergence: lane %d is at %s, %s with mask %08x, lane %d at %s, %s with mask "
            "%08x",
            thread->lane, thread->operation, text(thread->site).c_str(), thread->mask, lane,
            other.operation, text(other.site).c_str(), other.mask);
    }
  }
  if (thread->converged && group != kFullMask) {
    fault(thread->site, "warp divergence: %s needs all 32 lanes, wanted ffffffff, got %08x",
          thread->operation, group);
  }
  thread->warp_operation(warp.lanes, group);
  if (thread->orders_memory && group == warp.live) ++warp.epoch;
  warp.waiting &= ~group;
  // Of the thread that performs it, which is the last to arrive unless a lane has exited.
  Thread* me = current;
  char* order = &me->group_release[me->group_parity ^= 1];
  EFFKERN_TSAN(if (thread->orders_memory) {
    for (int lane = 0; lane < kWarpSize; ++lane) {
      if (group >> lane & 1) __tsan_acquire(&warp.lanes[lane]->release);
    }
    __tsan_release(order);
  })
  for (int lane = 0; lane < kWarpSize; ++lane) {
    Thread* other = warp.lanes[lane];
    if (!(group >> lane & 1) || other == me) continue;
    other->acquire = order;
    make_ready(other);
  }
  return true;
}

void release_barrier(Barrier& barrier) {
  for (Thread* thread : barrier.waiting) {
    thread->out.u32[0] = unsigned(barrier.predicates);
    make_ready(thread);
  }
  barrier.waiting.clear();
  barrier.arrived = barrier.predicates = 0;
  ++barrier.phase;
}

// One more thread at a named or block-wide barrier. True if it was the last.
bool arrive(Barrier& barrier, int count, const char* name, Site site) {
  Block& block = *current->block;
  const bool block_wide = count == 0;
  if (!block_wide && (count % kWarpSize != 0 || count > block.size)) {
    fault(site, "%s: wanted a multiple of 32 of at most %d threads, got %d", name, block.size,
          count);
  }
  const int expected = block_wide ? block.size : count;
  if (barrier.arrived && barrier.count != expected) {
    fault(site, "%s: barrier divergence: %d threads expected here, %d at %s", name, expected,
          barrier.count, text(barrier.site).c_str());
  }
  if (barrier.arrived && block_wide && barrier.site.line != site.line) {
    fault(site, "%s: barrier divergence: %d other threads wait at %s", name, barrier.arrived,
          text(barrier.site).c_str());
  }
  barrier.site = site;
  barrier.count = expected;
  EFFKERN_TSAN(__tsan_release(&barrier.order[barrier.phase & 1]);)
  return ++barrier.arrived == expected;
}

// What the threads that will never run again wait for.
std::string describe_deadlock(const Group& group) {
  std::map<std::pair<std::string, int>, std::vector<const Thread*>> places;
  int exited = 0;
  for (const Block* block : group.blocks) {
    for (const Thread* thread : block->threads) {
      if (thread->state == ThreadState::kDone) {
        ++exited;
      } else {
        places[{std::string(thread->operation) + " at " + text(thread->site), thread->site.line}]
            .push_back(thread);
      }
    }
  }
  std::string message = "barrier divergence: " + std::to_string(exited) + " threads have exited";
  for (const auto& [where, threads] : places) {
    message += ", " + std::to_string(threads.size()) + " wait for ever in " + where.first +
               " (first: " + place(*threads.front()) + ")";
  }
  return message;
}

}  // namespace

std::string text(Site site) {
  if (site.line == 0) return "no line known";
  const char* slash = std::strrchr(site.file, '/');
  return std::string(slash ? slash + 1 : site.file) + ":" + std::to_string(site.line);
}

std::string place(const Thread& thread) {
  const uint3 &b = thread.block->index, &t = thread.index;
  char text[120];
  std::snprintf(text, sizeof text, "block (%u,%u,%u) thread (%u,%u,%u)", b.x, b.y, b.z, t.x, t.y,
                t.z);
  return text;
}

void fault(Site site, const char* format, ...) {
  {
    const NotTheKernel emulator;
    char message[700];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    if (running->error.empty()) {
      running->error = std::string(message) + " [" + place(*current) +
                       (site.line ? ", " + text(site) : std::string()) + "]";
    }
    running->ready = 0;
  }
  EFFKERN_TSAN(__tsan_release(&running->end);)
  switch_to(&running->scheduler);
  // The scheduler never comes back to a kernel that has failed.
  std::abort();
}

void make_ready(Thread* thread) {
  Group& group = *running;
  thread->state = ThreadState::kReady;
  group.queue[(group.first_ready + group.ready++) % group.queue.size()] = thread;
}

void wait() {
  Thread* next = take_ready(*running);
  if (next == current) return;
  if (next) next->started = true;
  switch_to(next ? next : &running->scheduler);
}

void maybe_yield() {
  if (settings().order != Order::kRandom) return;
  make_ready(current);
  wait();
}

int barrier_sync(int number, int count, bool predicate, const char* name, Site site) {
  Thread* me = current;
  Block& block = *me->block;
  Barrier& barrier = block.barriers[number];
  char* order = &barrier.order[barrier.phase & 1];
  (void)order;
  me->operation = name;
  me->site = site;
  barrier.predicates += predicate;
  const bool last = arrive(barrier, count, name, site);
  {
    const NotTheKernel emulator;
    barrier.waiting.push_back(me);
  }
  me->state = ThreadState::kWaiting;
  if (count != 0) block.used_named_barriers = true;
  if (last) {
    if (count == 0) ++block.epoch;
    release_barrier(barrier);
  }
  wait();
  EFFKERN_TSAN(__tsan_acquire(order);)
  return int(me->out.u32[0]);
}

void barrier_arrive(int number, int count, const char* name, Site site) {
  Barrier& barrier = current->block->barriers[number];
  current->block->used_named_barriers = true;
  if (arrive(barrier, count, name, site)) release_barrier(barrier);
}

void cluster_arrive(Site site) {
  Thread* me = current;
  Group& group = *running;
  if (me->arrived_at_cluster) fault(site, "barrier.cluster.arrive: a second one without a wait");
  me->arrived_at_cluster = true;
  me->cluster_phase = group.barrier.phase;
  EFFKERN_TSAN(__tsan_release(&group.barrier.order[group.barrier.phase & 1]);)
  if (++group.barrier.arrived < group.size) return;
  ++group.epoch;
  for (Block* block : group.blocks) ++block->epoch;
  release_barrier(group.barrier);
}

void cluster_wait(Site site) {
  Thread* me = current;
  Group& group = *running;
  if (!me->arrived_at_cluster) fault(site, "barrier.cluster.wait: wanted an arrive before it");
  me->arrived_at_cluster = false;
  if (group.barrier.phase == me->cluster_phase) {
    me->operation = "barrier.cluster.wait";
    me->site = site;
    me->state = ThreadState::kWaiting;
    {
      const NotTheKernel emulator;
      group.barrier.waiting.push_back(me);
    }
    wait();
  }
  EFFKERN_TSAN(__tsan_acquire(&group.barrier.order[me->cluster_phase & 1]);)
}

Registers& warp_collective(WarpOperation operation, unsigned mask, const char* name, Site site,
                           bool converged, bool orders_memory) {
  Thread* me = current;
  me->warp_operation = operation;
  me->mask = mask;
  me->operation = name;
  me->site = site;
  me->converged = converged;
  me->orders_memory = orders_memory;
  if (!(mask >> me->lane & 1)) {
    fault(site, "%s: wanted a mask with the calling lane %d, got %08x", name, me->lane, mask);
  }
  EFFKERN_TSAN(if (orders_memory) __tsan_release(&me->release);)
  me->warp->waiting |= 1u << me->lane;
  if (try_collective(me)) {
    maybe_yield();
  } else {
    me->state = ThreadState::kWaiting;
    wait();
    EFFKERN_TSAN(if (orders_memory) __tsan_acquire(me->acquire);)
  }
  return me->out;
}

void prepare_group(Group& group) {
  // Never destroyed: threads that a fault has ended remain on their stacks.
  static auto& pool = *new std::vector<std::unique_ptr<Block>>;
  static auto& threads = *new std::vector<std::unique_ptr<Thread>>;
  const dim3 &cluster = group.shape.cluster, &shape = group.shape.block;
  const size_t blocks = size_t(cluster.x) * cluster.y * cluster.z;
  const size_t per_block = size_t(shape.x) * shape.y * shape.z;
  while (pool.size() < blocks) pool.push_back(std::make_unique<Block>());
  while (threads.size() < blocks * per_block) {
    auto thread = std::make_unique<Thread>();
    thread->fiber.allocate(("CUDA thread " + std::to_string(threads.size())).c_str());
    threads.push_back(std::move(thread));
  }
  group.size = int(blocks * per_block);
  group.queue.assign(size_t(group.size), nullptr);
  group.scheduler.fiber.adopt_thread();
  for (size_t rank = 0; rank < blocks; ++rank) {
    Block& block = *pool[rank];
    block.rank = int(rank);
    block.size = int(per_block);
    block.threads.resize(per_block);
    for (size_t i = 0; i < per_block; ++i) {
      Thread* thread = threads[rank * per_block + i].get();
      thread->block = &block;
      thread->id = int(i);
      thread->lane = int(i % kWarpSize);
      thread->warp = &block.warps[i / kWarpSize];
      thread->warp->lanes[thread->lane] = thread;
      thread->index = {unsigned(i % shape.x), unsigned(i / shape.x % shape.y),
                       unsigned(i / (size_t(shape.x) * shape.y))};
      block.threads[i] = thread;
    }
    group.blocks.push_back(&block);
  }
}

void run_group(Group& group, uint64_t number) {
  const dim3 &cluster = group.shape.cluster, &grid = group.shape.grid;
  const uint64_t columns = grid.x / cluster.x, rows = grid.y / cluster.y;
  group.alive = group.size;
  group.first_ready = group.ready = 0;
  group.random = (settings().seed + number + 1) * 0x9E3779B97F4A7C15ull | 1;
  ++group.epoch;
  ++group.run;
  group.barrier.arrived = 0;
  group.barrier.waiting.clear();
  std::vector<Thread*> order;
  for (Block* block : group.blocks) {
    const unsigned rank = unsigned(block->rank);
    block->index = {unsigned(number % columns) * cluster.x + rank % cluster.x,
                    unsigned(number / columns % rows) * cluster.y + rank / cluster.x % cluster.y,
                    unsigned(number / columns / rows) * cluster.z + rank / cluster.x / cluster.y};
    block->alive = block->size;
    ++block->epoch;
    block->used_named_barriers = false;
    for (Barrier& barrier : block->barriers) {
      barrier.arrived = barrier.predicates = 0;
      barrier.waiting.clear();
    }
    for (Warp& warp : block->warps) warp.live = warp.waiting = 0;
    start_shared(*block);
    for (Thread* thread : block->threads) {
      thread->warp->live |= 1u << thread->lane;
      thread->started = false;
      thread->operation = "its start";
      thread->site = {"", 0};
      thread->copies.clear();
      thread->copy_group = 0;
      thread->arrived_at_cluster = false;
      thread->fiber.prepare(&thread_main, unsigned(thread->id));
      order.push_back(thread);
    }
  }
  if (settings().order == Order::kReverse) std::reverse(order.begin(), order.end());
  for (Thread* thread : order) make_ready(thread);
  EFFKERN_TSAN(__tsan_release(&group.start);)
  current = &group.scheduler;
  Thread* first = take_ready(group);
  first->started = true;
  switch_to(first);
  current = nullptr;
  EFFKERN_TSAN(__tsan_acquire(&group.end);)
  if (group.error.empty() && group.alive) group.error = describe_deadlock(group);
  for (Block* block : group.blocks) finish_shared(*block);
  if (settings().count) finish_counting_group();
}

}  // namespace effkern::emulation
