"""depthwise_conv2d_layer_norm in Triton.

kernel: @triton.jit only | launch: tensors to arguments | configs: tiles. All but configs import
triton, at the first call of a Triton backend.
"""
