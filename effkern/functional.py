"""The functional forms of effkern's operators."""

from .ops.depthwise_conv2d import depthwise_conv2d

__all__ = ["depthwise_conv2d"]
