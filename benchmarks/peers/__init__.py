"""Other CPU runtimes on the same layers and blocks, forward and float32 only, each in a process of
its own."""

from __future__ import annotations

from importlib.util import find_spec

# The peer's name, which is also its adapter's module here: the packages that it needs.
REQUIRED = {
    "onnxruntime": ("onnxruntime", "onnx"),
    "openvino": ("openvino", "onnx"),
    "ncnn": ("ncnn", "onnx"),
    "litert": ("ai_edge_litert", "flatbuffers", "onnx"),
}
# The layout of the images that a peer is handed, the one that it prefers.
LAYOUT = {
    "onnxruntime": "contiguous",
    "openvino": "contiguous",
    "ncnn": "contiguous",
    "litert": "channels_last",
}


def absence(name: str, device: str, cold: bool) -> str | None:
    """Why a peer takes no part in a run; None if it does."""
    absent = [package for package in REQUIRED[name] if find_spec(package) is None]
    if absent:
        return f"not installed: {', '.join(absent)}"
    if device != "cpu":
        return "compared on the CPU only"
    return "compared warm only" if cold else None


def limit(name: str, pass_: str, dtype: str, batch: int) -> str | None:
    """Why a peer does not compute a problem; None if it does."""
    if pass_ != "fwd":
        return "forward only"
    if dtype != "float32":
        return "float32 only"
    return "one image a call" if name == "ncnn" and batch > 1 else None
