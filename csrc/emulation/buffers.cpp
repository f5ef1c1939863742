#include "emulation/buffers.h"

#include <algorithm>
#include <cstdint>

#include "emulation/counters.h"
#include "emulation/device.h"

namespace effkern::emulation {
namespace {

thread_local std::vector<Buffer> declared;
// Of the running launch, by address; and the one that the latest access was in.
std::vector<const Buffer*> buffers;
const Buffer* latest = nullptr;

uintptr_t begin_of(const Buffer& buffer) { return reinterpret_cast<uintptr_t>(buffer.begin); }

bool contains(const Buffer& buffer, uintptr_t address, size_t bytes) {
  return address >= begin_of(buffer) && address + bytes <= begin_of(buffer) + buffer.bytes;
}

// The buffer with the last byte before `address`, or the first one.
const Buffer& nearest(uintptr_t address) {
  const Buffer* best = buffers.front();
  for (const Buffer* buffer : buffers) {
    if (begin_of(*buffer) <= address) best = buffer;
  }
  return *best;
}

const char* verb(Access access) { return access == Access::kRead ? "read" : "write"; }

}  // namespace

DeclaredBuffers::DeclaredBuffers(std::vector<Buffer> wanted) { declared = std::move(wanted); }
DeclaredBuffers::~DeclaredBuffers() { declared.clear(); }

void start_buffers() {
  buffers.clear();
  latest = nullptr;
  for (const Buffer& buffer : declared) {
    if (buffer.bytes) buffers.push_back(&buffer);
  }
  std::sort(buffers.begin(), buffers.end(),
            [](const Buffer* a, const Buffer* b) { return begin_of(*a) < begin_of(*b); });
}

void global_access(const void* pointer, size_t bytes, Access access, Site site, bool active) {
  if (settings().count) count_global(pointer, bytes, access, site, active);
  if (!active) return;
  current->operation = access == Access::kRead ? "a global read" : "a global write";
  current->site = site;
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  if (address % bytes != 0) {
    fault(site, "misaligned global %s: wanted an address that is a multiple of %zu, got %p",
          verb(access), bytes, pointer);
  }
  if (buffers.empty()) return;
  if (!latest || !contains(*latest, address, bytes)) {
    latest = nullptr;
    for (const Buffer* buffer : buffers) {
      if (contains(*buffer, address, bytes)) latest = buffer;
    }
    if (!latest) {
      const Buffer& near = nearest(address);
      fault(site,
            "global %s out of bounds: %zu bytes at byte %lld of the nearest buffer, %s, which has "
            "%zu",
            verb(access), bytes, static_cast<long long>(address - begin_of(near)),
            near.name.c_str(), near.bytes);
    }
  }
  const Buffer& buffer = *latest;
  if (access == Access::kWrite && !buffer.writable) {
    fault(site, "global write to %s, which kernels may only read", buffer.name.c_str());
  }
  if (buffer.mask.empty()) return;
  const size_t first = address - begin_of(buffer);
  for (size_t i = first / buffer.granularity; i <= (first + bytes - 1) / buffer.granularity; ++i) {
    if (buffer.mask[i]) continue;
    fault(site, "global %s out of bounds: byte %zu of %s lies between the elements of the view",
          verb(access), i * buffer.granularity, buffer.name.c_str());
  }
}

void not_finite(Site site) {
  if (settings().finite)
    fault(site, "a result that is no finite number, of inputs that are finite");
}

}  // namespace effkern::emulation
