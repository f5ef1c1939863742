"""A copy that one launch repeats, for the bandwidth of the L2 cache."""

import triton
import triton.language as tl


@triton.jit
def copy_kernel(source, target, blocks, steps, BLOCK: tl.constexpr):
    """target = source for `blocks` blocks of BLOCK elements, each one steps / blocks times."""
    for step in range(tl.program_id(0), steps, tl.num_programs(0)):
        offset = step % blocks * BLOCK + tl.arange(0, BLOCK)
        # Past the L1 cache.
        value = tl.load(source + offset, cache_modifier=".cg")
        tl.store(target + offset, value, cache_modifier=".cg")
