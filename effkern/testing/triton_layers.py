"""The Triton launches that layers of real models make, without a GPU."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch

from ..prediction import BY_CAPABILITY
from .predictions import Predicted, predicted
from .triton_gate import Facts
from .triton_launch_facts import geometry, triton_facts
from .triton_stub import Launch, recorded_launches

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
LAYOUTS = (torch.channels_last, torch.contiguous_format)
# Only the epilogue differs: every activation on one layer (kernel, stride, channels).
_ACTIVATED = ((3, 3), 1, 192)
_ACTIVATIONS = range(7)
# Machine code does not depend on it; so many that the kernels, not their launches, take the time.
BATCH = 128


class LayerLaunch(NamedTuple):
    """A launch, the first layer that makes it, and what it is called in reports."""

    name: str
    layer: Any
    launch: Launch


def prediction(found: LayerLaunch, facts: Facts) -> Predicted | None:
    """Of a launch of stencil_kernel or weight_grad_kernel without activation, on a device whose
    rates are known; None elsewhere.

    Args:
        facts: of its code.
    """
    layer, launch = found.layer, found.launch
    main = launch.kernel in ("stencil_kernel", "weight_grad_kernel")
    if not main or launch.values.get("ACTIVATION") or launch.capability not in BY_CAPABILITY:
        return None
    itemsize = next(dtype.itemsize for dtype in DTYPES if str(dtype)[6:] in found.name.split())
    counted = triton_facts(launch, facts, geometry(layer, BATCH, itemsize))
    input = layer.channels * layer.height * layer.width
    output = layer.out_channels * layer.out_height * layer.out_width
    outputs = BATCH * (input if launch.values.get("GRAD_INPUT") else output)
    weights = layer.out_channels * layer.kernel_h * layer.kernel_w
    distinct = itemsize * (BATCH * (input + output) + weights)
    return predicted(counted, outputs, distinct, BATCH, launch.capability)


def _name(layer: Any, dtype: torch.dtype, layout: torch.memory_format, launch: Launch) -> str:
    values = launch.values
    words = [layer.name, str(dtype)[6:], str(layout)[6:].removesuffix("_format")]
    words.append(launch.kernel.removesuffix("_kernel"))
    if values.get("GRAD_INPUT"):
        words.append("grad_input")
    if values.get("ACTIVATION"):
        direction = "backward" if "grad" not in values else "forward"
        words.append(f"activation {values['ACTIVATION']} {direction}")
    return " ".join(words)


def _run(layer: Any, dtype: torch.dtype, layout: torch.memory_format) -> None:
    from ..triton_kernels.depthwise_conv2d import launch

    def image(channels: int, height: int, width: int) -> torch.Tensor:
        shape = (BATCH, channels, height, width)
        return torch.empty(shape, dtype=dtype, device="meta", memory_format=layout)

    input = image(layer.channels, layer.height, layer.width)
    output = image(layer.out_channels, layer.out_height, layer.out_width)
    kernel = (layer.kernel_h, layer.kernel_w)
    weight = torch.empty((layer.out_channels, 1, *kernel), dtype=dtype, device="meta")
    bias = weight.new_empty(layer.out_channels) if layer.bias else None
    geometry = (
        *(layer.stride_h, layer.stride_w, layer.pad_top, layer.pad_bottom),
        *(layer.pad_left, layer.pad_right, layer.dilation_h, layer.dilation_w),
    )
    launch.stencil("forward", input, weight, bias, None, output, geometry, 0, False)
    launch.stencil("backward", output, weight, None, None, input, geometry, 0, True)
    launch.weight_grad("backward", input, output, weight, bias, kernel, geometry)
    if (kernel, layer.stride_h, layer.channels) == _ACTIVATED:
        bias = weight.new_empty(layer.out_channels)
        for activation in _ACTIVATIONS[1:]:
            launch.stencil(
                "forward", input, weight, bias, None, output, geometry, activation, False
            )
            launch.stencil(
                "activation_backward",
                *(input, weight, bias, output, output, geometry, activation, False),
            )


def launches(
    layers: Iterable[Any],
    capability: int,
    dtypes: Iterable[torch.dtype] = DTYPES,
    layouts: Iterable[torch.memory_format] = LAYOUTS,
) -> dict[str, LayerLaunch]:
    """The distinct launches of all layers, passes, dtypes and layouts, by fingerprint.

    Args:
        layers: of benchmarks.workloads.
        capability: 90 for sm_90.
    """
    found: dict[str, LayerLaunch] = {}
    layers = list(layers)
    for dtype in dtypes:
        for layout in layouts:
            for layer in layers:
                with recorded_launches(capability) as recorded:
                    _run(layer, dtype, layout)
                for launch in recorded:
                    name = _name(layer, dtype, layout, launch)
                    found.setdefault(launch.fingerprint, LayerLaunch(name, layer, launch))
    return found
