"""The functional forms of effkern's operators."""

from .ops.convnext_block import convnext_block
from .ops.depthwise_conv2d import depthwise_conv2d
from .ops.depthwise_conv2d.fused import depthwise_conv2d_fused
from .ops.depthwise_conv2d_layer_norm import depthwise_conv2d_layer_norm
from .ops.fused_mbconv import fused_mbconv
from .ops.mbconv import mbconv

__all__ = [
    "convnext_block",
    "depthwise_conv2d",
    "depthwise_conv2d_fused",
    "depthwise_conv2d_layer_norm",
    "fused_mbconv",
    "mbconv",
]
