"""The distinct blocks of timm's models, with weights that are not downloaded."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from effkern.nn import block_sources
from effkern.nn.mbconv_sources import is_nothing

MODELS = (
    "efficientnet_b0", "efficientnet_b4", "tf_efficientnetv2_s", "tf_efficientnetv2_m",
    "convnext_tiny", "convnext_base", "coatnet_0_rw_224",
)  # fmt: skip


@dataclass(frozen=True)
class BlockLayer:
    """A block of a model.

    Attributes:
        name: channels in, expanded and out, size of the image, kernel and stride.
        kind: the block of effkern that stands for it (FusedMBConv: functional.fused_mbconv), and
            whether it has squeeze-and-excitation.
        shape: (channels, height, width) of its input.
        module: the block on the meta device.
    """

    name: str
    kind: str
    shape: tuple[int, int, int]
    module: nn.Module

    def build(self) -> nn.Module:
        """The block on the CPU, in eval mode, with random weights and statistics."""
        module = copy.deepcopy(self.module).to_empty(device="cpu").eval()
        generator = torch.Generator().manual_seed(0)

        def draw(tensor: Tensor, scale: float, offset: float) -> None:
            with torch.no_grad():
                tensor.normal_(generator=generator).mul_(scale).add_(offset)

        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.dim() > 1:
                draw(tensor, tensor[0].numel() ** -0.5, 0)
            elif name.endswith("running_var"):
                torch.nn.init.uniform_(tensor, 0.5, 1.5, generator=generator)
            elif tensor.is_floating_point():
                draw(tensor, 0.1, 1 if name.endswith("weight") else 0)
            else:
                tensor.zero_()
        return module

    def input(self, batch: int) -> Tensor:
        return torch.randn(batch, *self.shape, generator=torch.Generator().manual_seed(1))


def _describe(module: Any, shape: tuple[int, ...]) -> tuple[str, str]:
    """Name and kind."""
    target = block_sources.block_class(module)
    assert target is not None
    kind = target.__name__
    if kind == "ConvNeXtBlock":
        conv, hidden, out = module.conv_dw, module.mlp.fc1.weight.shape[0], shape[0]
    else:
        parts = block_sources.parts_of(module, target)
        conv = parts.middle.conv
        hidden = conv.out_channels
        out = hidden if parts.project is None else parts.project.conv.out_channels
        if any(not is_nothing(m) for m in (parts.se, getattr(module, "se_early", None))):
            kind += " SE"
    (k, _), (s, _) = conv.kernel_size, conv.stride
    return f"{shape[0]}-{hidden}-{out}@{shape[1]} {k}x{k}" + (f" s{s}" if s > 1 else ""), kind


def blocks_of(model_name: str) -> Counter[BlockLayer]:
    """The blocks of a model at the size that timm trained it with, and how often they occur."""
    import timm

    with torch.device("meta"):
        model = timm.create_model(model_name).eval()
    counts: Counter[tuple[Any, ...]] = Counter()
    found: dict[tuple[Any, ...], BlockLayer] = {}

    def record(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        shape = tuple(inputs[0].shape[1:])
        key = (*_describe(module, shape), str(module), getattr(module, "has_skip", None))
        counts[key] += 1
        bare = copy.deepcopy(module)
        bare._forward_pre_hooks.clear()
        found.setdefault(key, BlockLayer(key[0], key[1], shape, bare))  # type: ignore[arg-type]

    for module in model.modules():
        if block_sources.block_class(module) is not None:
            module.register_forward_pre_hook(record)
    with torch.no_grad():
        model(torch.empty(1, *model.default_cfg["input_size"], device="meta"))
    return Counter({found[key]: count for key, count in counts.items()})


def distinct(models: list[str] | tuple[str, ...]) -> dict[BlockLayer, dict[str, int]]:
    """Every block once, and how often each model has it."""
    layers: dict[tuple[Any, ...], BlockLayer] = {}
    uses: dict[tuple[Any, ...], dict[str, int]] = {}
    for model in models:
        for layer, count in blocks_of(model).items():
            key = layer.name, layer.kind, str(layer.module), layer.shape
            layers.setdefault(key, layer)
            uses.setdefault(key, {})
            uses[key][model] = uses[key].get(model, 0) + count
    names = Counter(layer.name for layer in layers.values())
    result, seen = {}, Counter[str]()
    for key, layer in layers.items():
        if names[layer.name] > 1:
            # Blocks that differ in an activation or an epsilon only.
            seen[layer.name] += 1
            name = f"{layer.name} ({seen[layer.name]})"
            layer = BlockLayer(name, layer.kind, layer.shape, layer.module)
        result[layer] = uses[key]
    return result
