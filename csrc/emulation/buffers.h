// The global memory that kernels may touch.
#pragma once

namespace effkern::emulation {

// Takes over what the calling thread has declared, at a launch.
void start_buffers();

}  // namespace effkern::emulation
