"""Modules: thin layers over effkern.functional."""

from .convnext_block import ConvNeXtBlock
from .depthwise_conv2d import DepthwiseConv2d
from .depthwise_conv2d_same import DepthwiseConv2dSame, DepthwiseConv2dStaticSame
from .mbconv import FusedMBConv, MBConv

__all__ = [
    "ConvNeXtBlock",
    "DepthwiseConv2d",
    "DepthwiseConv2dSame",
    "DepthwiseConv2dStaticSame",
    "FusedMBConv",
    "MBConv",
]
