"""How the Triton kernels compute a problem, for effkern.explain; triton itself is not imported."""

from __future__ import annotations

from typing import Any

import torch

_REASONS = {
    "c": "channels are adjacent in memory, lanes hold vectors of them",
    "w": "pixels are adjacent in memory, lanes run along the row",
    "": "neither channels nor pixels are adjacent in memory",
}
_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def _axis(p: dict[str, Any], axis: str, size: str, pads: tuple[str, str]) -> tuple[int, int]:
    """Size of the output, and the stride, no larger than it has an effect."""
    reach = p[f"dilation_{axis}"] * (p[f"kernel_{axis}"] - 1) + 1
    ways = p[size] + sum(p[f"pad_{side}"] for side in pads) - reach
    stride = p[f"stride_{axis}"]
    return ways // stride + 1, min(stride, ways + 1)


def plan(p: dict[str, Any]) -> dict[str, Any]:
    """Kernel, tile, grid, workspace and reason of a :class:`effkern.explanation.Plan`.

    Args:
        p: the problem, as in :class:`effkern.explanation.Explanation`, with "pass_": "forward",
            "grad_input" or "grad_weight".
    """
    from ...triton_kernels.depthwise_conv2d import configs

    dtype = getattr(torch, p["dtype"])
    accumulator = 8 if dtype == torch.float64 else 4
    kernel = (p["kernel_h"], p["kernel_w"])
    out_height, stride_h = _axis(p, "h", "height", ("top", "bottom"))
    out_width, stride_w = _axis(p, "w", "width", ("left", "right"))
    pads = (p[f"pad_{side}"] for side in ("top", "bottom", "left", "right"))
    geometry = (stride_h, stride_w, *pads, p["dilation_h"], p["dilation_w"])
    input = (p["batch"], p["in_channels"], p["height"], p["width"])
    output = (p["batch"], p["out_channels"], out_height, out_width)
    pass_ = p["pass_"]
    source = output if pass_ == "grad_input" else input
    unit = ""
    if p["layout"] in _FORMATS:
        image = torch.empty(source, device="meta", memory_format=_FORMATS[p["layout"]])
        unit = configs.unit(image)
    if pass_ == "grad_weight":
        planned = configs.plan_weight_grad(unit, dtype.itemsize, output, kernel, geometry[6])
        name, workspace = "weight_grad_kernel", torch.Size(planned.partial).numel()
        tile = planned.config[:3]
    else:
        target = input if pass_ == "grad_input" else output
        grad_input = pass_ == "grad_input"
        planned = configs.plan_stencil(
            unit, dtype.itemsize, target, kernel[0], geometry, grad_input
        )
        name, tile = "stencil_kernel", planned.config[:3]
        # Weights are packed for vectors of channels.
        packed = unit == "c" and kernel != (1, 1)
        workspace = p["out_channels"] * kernel[0] * kernel[1] if packed else 0
    return {
        "kernel": name,
        "tile": "x".join(map(str, tile)),
        "grid": planned.programs,
        "workspace": workspace * accumulator,
        "reason": f"asked for by name; {_REASONS[unit]}",
    }
