"""The depthwise layers of real models: one CSV file per model, written by generate.py."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True, order=True)
class Layer:
    """A depthwise convolution layer and the size of its input; sizes and padding in pixels."""

    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    dilation_h: int
    dilation_w: int
    channels: int
    height: int
    width: int
    pad_top: int
    pad_bottom: int
    pad_left: int
    pad_right: int
    multiplier: int = 1
    bias: bool = False

    @property
    def out_channels(self) -> int:
        return self.channels * self.multiplier

    @property
    def out_height(self) -> int:
        padded = self.height + self.pad_top + self.pad_bottom
        return (padded - self.dilation_h * (self.kernel_h - 1) - 1) // self.stride_h + 1

    @property
    def out_width(self) -> int:
        padded = self.width + self.pad_left + self.pad_right
        return (padded - self.dilation_w * (self.kernel_w - 1) - 1) // self.stride_w + 1

    @property
    def name(self) -> str:
        """Channels@height, kernel and stride, such as "96@112 k3 s2"."""
        size = _pair(self.height, self.width)
        dilation = _pair(self.dilation_h, self.dilation_w)
        return f"{self.channels}@{size} {self.kind}" + (f" d{dilation}" if dilation != "1" else "")

    @property
    def kind(self) -> str:
        """The class that the summaries group by: kernel size and stride."""
        return f"k{_pair(self.kernel_h, self.kernel_w)} s{_pair(self.stride_h, self.stride_w)}"

    def with_symmetric_padding(self) -> Layer:
        """The same layer with equal padding on both sides, as F.conv2d can express it.

        TensorFlow's "same" padding at stride 2 puts the odd pixel at the end; frameworks pad the
        input beforehand. One call on the same sizes is what contenders can be compared on.
        """
        rows = (self.pad_top + self.pad_bottom + 1) // 2
        columns = (self.pad_left + self.pad_right + 1) // 2
        layer = replace(self, pad_top=rows, pad_bottom=rows, pad_left=columns, pad_right=columns)
        if (layer.out_height, layer.out_width) != (self.out_height, self.out_width):
            raise ValueError(f"{self.name}: no symmetric padding gives the same output size")
        return layer


def _pair(first: int, second: int) -> str:
    return str(first) if first == second else f"{first}x{second}"


def models() -> list[str]:
    """The names of the workload files."""
    return sorted(path.stem for path in FOLDER.glob("*.csv"))


def load(model: str) -> dict[Layer, int]:
    """The distinct layers of one model, with how often each occurs.

    Raises:
        ValueError: there is no workload file of that name.
    """
    path = FOLDER / f"{model}.csv"
    if model not in models():
        raise ValueError(f"--model: wanted one of {', '.join(models())}, got {model!r}")
    layers: dict[Layer, int] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            *sizes, bias = (int(row[field.name]) for field in fields(Layer))
            layers[Layer(*sizes, bias=bool(bias))] = int(row["count"])
    return layers


def distinct(names: Sequence[str]) -> dict[Layer, dict[str, int]]:
    """The distinct layers of several models, in a fixed order: layer -> {model: count}."""
    found: dict[Layer, dict[str, int]] = {}
    for name in names:
        for layer, count in load(name).items():
            uses = found.setdefault(layer.with_symmetric_padding(), {})
            uses[name] = uses.get(name, 0) + count
    return dict(sorted(found.items()))
