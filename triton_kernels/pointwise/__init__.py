"""pointwise, a 1x1 convolution with what surrounds it in a block, in Triton.

kernel: @triton.jit only | epilogue: what kernels do with finished sums | launch: tensors to
arguments | configs: tiles. All but configs import triton, at the first call of a Triton backend.
"""
