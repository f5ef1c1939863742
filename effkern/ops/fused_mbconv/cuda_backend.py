"""fused_mbconv as one CUDA kernel: which calls it takes, and the call."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from torch import Tensor

from ... import registry
from ..depthwise_conv2d import cuda_inference

if TYPE_CHECKING:
    from ..._C import FusedMBConvPlan
    from . import _Block

_NAME = "effkern.fused_mbconv"


def run(input: Tensor, block: _Block, residual: Tensor | None) -> Tensor | None:
    """The result of an eager call without gradients, with backend "cuda" or "cuda_emulated"; None
    for every other call.

    Raises:
        RuntimeError: the kernel does not take the call.
    """
    # A kernel that does not fit into the input is torch's to refuse.
    tensors = [t for t in (input, *block[:4], residual) if t is not None]
    if not cuda_inference.asked_for(tensors) or min(block.size) < 1:
        return None
    if reason := _refusal(input, block, residual):
        raise RuntimeError(
            f"{_NAME}: input: wanted a call that the CUDA kernel takes, got {reason}"
        )
    weight, bias, project_weight, project_bias, params, _ = block
    return cuda_inference.operators().fused_mbconv.default(
        input,
        # Copied on each call where it is not in this layout: twice its bytes.
        cuda_inference.image(weight),
        None if bias is None else bias.contiguous(),
        cuda_inference.dense(project_weight),
        None if project_bias is None else project_bias.contiguous(),
        None,
        cuda_inference.image(residual),
        *params[:6],
        params[8],
        registry.selected,
    )


def _refusal(input: Tensor, block: _Block, residual: Tensor | None) -> str | None:
    """Why the kernel does not take the call, in words."""
    if reason := cuda_inference.refusal(input):
        return reason
    hidden, _, kernel_h, kernel_w = block.expand_weight.shape
    out = 0 if block.project_weight is None else block.project_weight.shape[0]
    sizes = (*input.shape, hidden, out, kernel_h, kernel_w, *block.params[:6])
    return plan(str(input.dtype)[6:], residual is not None, *sizes).refusal


@functools.lru_cache(maxsize=256)
def plan(dtype: str, has_residual: bool, *sizes: int) -> FusedMBConvPlan:
    """The kernel's plan; `sizes` are the integers of `_C.plan_fused_mbconv`, in their order."""
    from ... import _C

    return _C.plan_fused_mbconv(dtype, has_residual, *sizes)
