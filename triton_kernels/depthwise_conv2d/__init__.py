"""depthwise_conv2d in Triton.

kernel, weight_grad_kernel, activation: @triton.jit only | launch: grid and memory | configs: tiles.
Importing them imports triton; effkern does that at the first call of a Triton backend.
"""
