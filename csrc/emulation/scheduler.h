// Runs one group of blocks from start to end.
#pragma once

#include "emulation/machine.h"

namespace effkern::emulation {

// Blocks and their threads as `group.shape` wants them; memory is kept from launch to launch.
void prepare_group(Group& group);
// The `number`-th cluster of the grid. Group::error says what went wrong.
void run_group(Group& group, uint64_t number);
// Where a thread is, for messages.
std::string place(const Thread& thread);
// "file.cuh:12", without folders.
std::string text(Site site);

}  // namespace effkern::emulation
