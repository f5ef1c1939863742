"""Writes the workload files: ``python -m benchmarks.workloads.generate`` (needs timm).

The layers are read off the running models by hooks, on the meta device, so nothing is downloaded.
RepLKNet-31B, which timm lacks, is written down from its paper (arXiv 2203.06717, table 4).
"""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import asdict, fields
from pathlib import Path

from . import FOLDER, Layer

# timm's name -> image size in pixels.
TIMM_MODELS = {
    "efficientnet_b0": 224,
    "tf_efficientnetv2_s": 300,
    "convnext_tiny": 224,
    "mobilenetv2_100": 224,
    "coatnet_0_rw_224": 224,
}
# Channels, input size, kernel size, blocks of each stage of RepLKNet-31B at 224 pixels; only the
# large kernels (at inference the parallel 5x5 branches are merged into them).
REPLKNET_31B = ((128, 56, 31, 2), (256, 28, 29, 2), (512, 14, 27, 18), (1024, 7, 13, 2))


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """TensorFlow's "same" padding of one dimension: before and after."""
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    return total // 2, total - total // 2


def timm_layers(name: str, image_size: int) -> Counter[Layer]:
    import timm
    import torch
    from timm.layers import Conv2dSame

    with torch.device("meta"):
        model = timm.create_model(name).eval()
    layers: Counter[Layer] = Counter()

    def record(module: torch.nn.Conv2d, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        _, channels, height, width = inputs[0].shape
        (kernel_h, kernel_w), (stride_h, stride_w) = module.kernel_size, module.stride
        dilation_h, dilation_w = module.dilation
        if isinstance(module, Conv2dSame):
            rows = same_padding(height, kernel_h, stride_h, dilation_h)
            columns = same_padding(width, kernel_w, stride_w, dilation_w)
        else:
            rows, columns = ((int(pad), int(pad)) for pad in module.padding)
        layer = Layer(
            kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w,
            channels, height, width, *rows, *columns,
            module.out_channels // channels, module.bias is not None,
        )  # fmt: skip
        if (layer.out_height, layer.out_width) != tuple(output.shape[-2:]):
            raise RuntimeError(f"{name}: {layer}: output size {tuple(output.shape[-2:])}")
        layers[layer] += 1

    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d) and module.groups == module.in_channels > 1:
            module.register_forward_hook(record)
    with torch.no_grad():
        model(torch.empty(1, 3, image_size, image_size, device="meta"))
    return layers


def replknet_layers() -> Counter[Layer]:
    layers: Counter[Layer] = Counter()
    for channels, size, kernel, count in REPLKNET_31B:
        pad = kernel // 2
        layers[Layer(kernel, kernel, 1, 1, 1, 1, channels, size, size, pad, pad, pad, pad)] = count
    return layers


def write(path: Path, layers: Counter[Layer]) -> None:
    columns = [field.name for field in fields(Layer)] + ["count"]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for layer, count in sorted(layers.items()):
            writer.writerow(
                {name: int(value) for name, value in asdict(layer).items()} | {"count": count}
            )


def generate(folder: Path = FOLDER) -> None:
    """Writes one CSV file per model into `folder`."""
    for name, image_size in TIMM_MODELS.items():
        write(folder / f"{name}.csv", timm_layers(name, image_size))
    write(folder / "replknet_31b.csv", replknet_layers())


if __name__ == "__main__":
    generate()
