// Shared memory: where arrays lie, and who did what to them.
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "emulation/counters.h"
#include "emulation/device.h"
#include "emulation/scheduler.h"

namespace effkern::emulation {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kCapacity = 256 << 10;
// Between two arrays, and before the first.
constexpr size_t kRedZone = 128;
constexpr size_t kStaticLimit = 48 << 10;

struct SharedArray {
  const void* id;
  size_t offset, bytes;
  const char* name;
};
// Of the running kernel: the same in every block, so that blocks of a cluster find each other's.
std::vector<SharedArray> arrays;
size_t next_offset = kRedZone;

size_t round_up(size_t value, size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

size_t dynamic_offset() { return kCapacity - round_up(running->shape.shared, 16); }

// Not std::memset, which ThreadSanitizer would take for an access of the running thread.
void fill(char* begin, size_t bytes) {
  asm volatile("rep stosb" : "+D"(begin), "+c"(bytes) : "a"(kPoison) : "memory");
}

void open_array(Block& block, size_t offset, size_t bytes) {
  (void)block, (void)offset, (void)bytes;
  EFFKERN_ASAN(__asan_unpoison_memory_region(block.shared + offset, bytes);)
}

// The array that holds the bytes, or null.
const SharedArray* find_array(size_t offset, size_t bytes) {
  for (const SharedArray& array : arrays) {
    if (offset >= array.offset && offset + bytes <= array.offset + array.bytes) return &array;
  }
  return nullptr;
}

const char* verb(Access access) { return access == Access::kRead ? "reads" : "writes"; }

// The place in the block's shared memory; checks bounds and alignment.
size_t check_place(const Block* block, const void* address, size_t bytes, const char* what,
                   Site site) {
  if (!block) fault(site, "%s: wanted an address in shared memory, got %p", what, address);
  if (reinterpret_cast<uintptr_t>(address) % bytes != 0) {
    fault(site, "misaligned %s: wanted an address that is a multiple of %zu, got %p", what, bytes,
          address);
  }
  const size_t offset = size_t(static_cast<const char*>(address) - block->shared);
  if (!find_array(offset, bytes)) {
    const SharedArray* near = arrays.empty() ? nullptr : &arrays.front();
    for (const SharedArray& array : arrays) {
      if (array.offset <= offset && (near->offset > offset || array.offset > near->offset))
        near = &array;
    }
    fault(site, "%s out of bounds: %zu bytes at byte %lld of %s, which has %zu", what, bytes,
          near ? static_cast<long long>(offset) - static_cast<long long>(near->offset) : 0,
          near ? near->name : "no array", near ? near->bytes : 0);
  }
  return offset;
}

// Whether a barrier lies between `before` and now, or the thread is the same.
bool is_ordered(const Block& block, const ShadowAccess& before, const Thread& now) {
  if (before.thread < 0) return true;
  if (before.rank != now.block->rank || &block != now.block) {
    if (before.rank == now.block->rank && before.thread == now.id) return true;
    return before.cluster_epoch < running->epoch;
  }
  if (before.thread == now.id || before.epoch < block.epoch) return true;
  const bool same_warp = before.thread / kWarpSize == now.id / kWarpSize;
  return same_warp && before.warp_epoch < now.warp->epoch;
}

void check_order(const Block& block, const ShadowAccess& before, const char* did, Access access,
                 Site site, const void* address) {
  if (is_ordered(block, before, *current)) return;
  const Thread& other = *running->blocks[size_t(before.rank)]->threads[size_t(before.thread)];
  const Thread& me = *current;
  const size_t offset = size_t(static_cast<const char*>(address) - block.shared);
  const SharedArray* array = find_array(offset, 1);
  fault(site,
        "race in shared memory: this thread %s byte %zu of %s, thread (%u,%u,%u) %s it at %s, "
        "no barrier between%s",
        verb(access), offset - array->offset, array->name, other.index.x, other.index.y,
        other.index.z, did, text(before.site).c_str(),
        other.block == me.block ? "" : " (another block of the cluster)");
}

size_t static_shared_bytes() {
  size_t bytes = 0;
  for (const SharedArray& array : arrays) {
    if (array.id != nullptr) bytes += round_up(array.bytes, 16);
  }
  return bytes;
}

}  // namespace

Block::Block() {
  void* memory = mmap(nullptr, kCapacity + 2 * kPage, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, kPage, PROT_NONE) ||
      mprotect(static_cast<char*>(memory) + kPage + kCapacity, kPage, PROT_NONE)) {
    throw std::bad_alloc();
  }
  shared = static_cast<char*>(memory) + kPage;
  shadow.resize(kCapacity / 4);
}

Block::~Block() { munmap(shared - kPage, kCapacity + 2 * kPage); }

void forget_shared_layout() {
  arrays.clear();
  next_offset = kRedZone;
}

void start_shared(Block& block) {
  const size_t dynamic = running->shape.shared;
  if (arrays.empty() && dynamic) {
    arrays.push_back({nullptr, dynamic_offset(), dynamic, "dynamic shared memory"});
  }
  EFFKERN_ASAN(__asan_poison_memory_region(block.shared, kCapacity);)
  fill(block.shared, next_offset);
  fill(block.shared + dynamic_offset() - kRedZone, kCapacity - dynamic_offset() + kRedZone);
  for (const SharedArray& array : arrays) open_array(block, array.offset, array.bytes);
}

void finish_shared(Block& block) {
  if (!running->error.empty()) return;
  EFFKERN_ASAN(__asan_unpoison_memory_region(block.shared, kCapacity);)
  for (const SharedArray& array : arrays) {
    const char* before = block.shared + array.offset - kRedZone;
    const char* after = block.shared + array.offset + array.bytes;
    const char* after_end =
        block.shared + std::min(kCapacity, round_up(array.offset + array.bytes, 16));
    const auto written = [](const char* begin, const char* end) {
      return std::any_of(begin, end,
                         [](char c) { return static_cast<unsigned char>(c) != kPoison; });
    };
    if (written(before, before + kRedZone) || written(after, after_end)) {
      running->error = std::string("write out of bounds beside ") + array.name + " [block (" +
                       std::to_string(block.index.x) + "," + std::to_string(block.index.y) + "," +
                       std::to_string(block.index.z) + "), found when it had ended]";
      return;
    }
  }
}

Block* shared_owner(const void* address) {
  const char* byte = static_cast<const char*>(address);
  for (Block* block : running->blocks) {
    // With the inaccessible pages around it, where overruns go.
    if (byte >= block->shared - kPage && byte < block->shared + kCapacity + kPage) return block;
  }
  return nullptr;
}

void* static_shared(const void* id, size_t bytes, const char* name, Site site) {
  for (const SharedArray& array : arrays) {
    if (array.id == id) return current->block->shared + array.offset;
  }
  const NotTheKernel emulator;
  const SharedArray array{id, next_offset, bytes, name};
  const size_t total = static_shared_bytes() + round_up(bytes, 16);
  if (total > kStaticLimit || total + running->shape.shared > settings().max_shared) {
    fault(site, "shared memory: wanted at most %zu bytes in arrays and %zu in all, got %zu and %zu",
          kStaticLimit, settings().max_shared, total, total + running->shape.shared);
  }
  arrays.push_back(array);
  next_offset = round_up(array.offset + bytes, 16) + kRedZone;
  // Every block of a cluster has it, whoever comes first.
  for (Block* block : running->blocks) {
    fill(block->shared + array.offset, next_offset - array.offset);
    open_array(*block, array.offset, bytes);
  }
  return current->block->shared + array.offset;
}

void* dynamic_shared() { return current->block->shared + dynamic_offset(); }

void* cluster_shared(const void* address, unsigned rank, Site site) {
  const Block* owner = shared_owner(address);
  if (!owner || rank >= running->blocks.size()) {
    fault(site, "mapa: wanted shared memory and a rank below %zu, got %p and %u",
          running->blocks.size(), address, rank);
  }
  const size_t offset = size_t(static_cast<const char*>(address) - owner->shared);
  return running->blocks[rank]->shared + offset;
}

void shared_place(const void* address, size_t bytes, Access access, const char* what, Site site) {
  current->operation = what;
  current->site = site;
  const size_t offset = check_place(shared_owner(address), address, bytes, what, site);
  if (settings().count) count_shared(offset, bytes, access, site);
}

void shared_order(const void* address, Access access, Site site) {
  Block* block = shared_owner(address);
  const bool reads = access == Access::kRead;
  const Thread& me = *current;
  const ShadowAccess now{int16_t(me.id), int16_t(me.block->rank), me.block->epoch,
                         me.warp->epoch, running->epoch,          site};
  ShadowWord& word = block->shadow[size_t(static_cast<const char*>(address) - block->shared) / 4];
  if (word.pending && word.pending_run == running->run) {
    fault(site, "shared %s: a cp.async of thread (%u,%u,%u) has not landed here: no wait between",
          reads ? "read" : "write", word.pending->index.x, word.pending->index.y,
          word.pending->index.z);
  }
  const bool checks = settings().check_races && !block->used_named_barriers;
  if (checks) check_order(*block, word.write, "wrote", access, site, address);
  if (reads) {
    word.reads[word.reads[0].epoch == now.epoch && word.reads[0].thread != now.thread] = now;
    return;
  }
  if (checks) {
    check_order(*block, word.reads[0], "read", access, site, address);
    check_order(*block, word.reads[1], "read", access, site, address);
  }
  word.write = now;
}

void shared_access(const void* address, size_t bytes, Access access, Site site) {
  shared_place(address, bytes, access, access == Access::kRead ? "shared read" : "shared write",
               site);
  // Threads may access the halves of one word side by side.
  for (size_t i = 0; i + 4 <= bytes; i += 4) {
    shared_order(static_cast<const char*>(address) + i, access, site);
  }
}

void shared_copy_started(const void* address, size_t bytes, Site site) {
  shared_place(address, bytes, Access::kWrite, "cp.async to shared memory", site);
  Block* block = shared_owner(address);
  const size_t offset = size_t(static_cast<const char*>(address) - block->shared);
  for (size_t i = 0; i < bytes; i += 4) {
    // It may land at any time from now on.
    shared_order(block->shared + offset + i, Access::kWrite, site);
    block->shadow[(offset + i) / 4].pending = current;
    block->shadow[(offset + i) / 4].pending_run = running->run;
  }
}

void shared_copy_landed(const void* address, size_t bytes, Site site) {
  Block* block = shared_owner(address);
  const size_t offset = size_t(static_cast<const char*>(address) - block->shared);
  for (size_t i = 0; i < bytes; i += 4) {
    block->shadow[(offset + i) / 4].pending = nullptr;
    shared_order(block->shared + offset + i, Access::kWrite, site);
  }
}

}  // namespace effkern::emulation
