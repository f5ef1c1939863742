// What the emulated kernels and wrappers call; cheap to include.
#pragma once

#include <cstddef>

#include "emulation/machine.h"

namespace effkern::emulation {

enum class Access { kRead, kWrite };

// Checks bounds and alignment, and counts. `active`: the lane takes part; a wrapper with a
// predicate tells of inactive lanes too, so that requests of a warp stay together.
void global_access(const void* address, size_t bytes, Access access, Site site, bool active = true);
// Fails where settings().finite says that it cannot be.
void not_finite(Site site);
// Also finds races and reads of copies that have not landed.
void shared_access(const void* address, size_t bytes, Access access, Site site);
// The second half of it: that of one word, whoever gave its address.
void shared_order(const void* address, Access access, Site site);
// The first half.
void shared_place(const void* address, size_t bytes, Access access, const char* what, Site site);
// Of a cp.async: the words are on their way until the thread has waited for them.
void shared_copy_started(const void* address, size_t bytes, Site site);
void shared_copy_landed(const void* address, size_t bytes, Site site);

// The running block's array for the declaration that `id` stands for.
void* static_shared(const void* id, size_t bytes, const char* name, Site site);
void* dynamic_shared();
// The same place in the shared memory of another block of the cluster.
void* cluster_shared(const void* address, unsigned rank, Site site);

}  // namespace effkern::emulation
