"""depthwise_conv2d in Triton.

kernel, weight_grad_kernel, activation: @triton.jit only | launch: tensors to arguments | configs:
tiles and grids. All but configs import triton, at the first call of a Triton backend.
"""
