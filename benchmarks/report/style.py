"""How the plots look."""

from __future__ import annotations

from typing import Any

PASS_TITLES = {
    "fwd": "forward",
    "dgrad": "input gradient",
    "wgrad": "weight gradient",
    "fwd_bwd": "forward and backward",
}
# Okabe and Ito's palette, which colour-blind readers can tell apart: (colour, marker).
STYLES = {
    "torch": ("#E69F00", "v"),
    "torch_channels_last": ("#D55E00", "^"),
    "torch_compile": ("#777777", "x"),
    "onnxruntime": ("#009E73", "<"),
    "openvino": ("#CC79A7", ">"),
    "ncnn": ("#B8A900", "d"),
    "litert": ("#000000", "P"),
    "effkern": ("#56B4E9", "o"),
    "effkern_channels_last": ("#0072B2", "s"),
    "effkern_triton": ("#009E73", "o"),
    "effkern_triton_channels_last": ("#CC79A7", "s"),
}
# Of predictions: (name, colour, marker).
PREDICTED = {
    "cuda_contiguous": ("CUDA NCHW", "#56B4E9", "o"),
    "cuda_channels_last": ("CUDA channels_last", "#0072B2", "s"),
    "triton_contiguous": ("Triton NCHW", "#E69F00", "v"),
    "triton_channels_last": ("Triton channels_last", "#D55E00", "^"),
}
SETTINGS: dict[Any, Any] = {
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
}


def times(value: float, _: Any = None) -> str:
    """A factor, as axes show it."""
    return f"{value:g}x"


def legend_below(figure: Any, columns: int) -> None:
    """One legend under all axes, for everything that any of them labels, once."""
    handles: dict[str, Any] = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), ncols=columns, loc="outside lower center")
