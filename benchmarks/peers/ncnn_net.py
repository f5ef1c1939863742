"""An ncnn net under construction: its layers as text, its weights as bytes."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

# In front of every file of layers.
_MAGIC = 7767517


@dataclass(frozen=True)
class Blob:
    """What a layer computes; `vector`: an image of one pixel, as ncnn pools it."""

    name: str
    vector: bool = False


class Net:
    """Each blob may be read once: `copies` makes more of them."""

    def __init__(self) -> None:
        self._layers: list[str] = []
        self._blobs = 0
        self._weights: list[bytes] = []

    def _add(self, kind: str, inputs: list[Blob], outputs: int, values: str) -> list[str]:
        names = [f"b{self._blobs + i}" for i in range(outputs)]
        self._blobs += outputs
        words = [kind, f"l{len(self._layers)}", str(len(inputs)), str(outputs)]
        words += [*(blob.name for blob in inputs), *names, values]
        self._layers.append(" ".join(words))
        return names

    def layer(
        self,
        kind: str,
        inputs: list[Blob],
        parameters: Mapping[int, int | float] | None = None,
        vector: bool | None = None,
    ) -> Blob:
        """What a layer computes of blobs, a vector if they are, unless told."""
        # A float is told by its point.
        values = (
            f"{key}={value:.9e}" if isinstance(value, float) else f"{key}={value}"
            for key, value in (parameters or {}).items()
        )
        (name,) = self._add(kind, inputs, 1, " ".join(values))
        return Blob(name, all(blob.vector for blob in inputs) if vector is None else vector)

    def input(self) -> Blob:
        return self.layer("Input", [], vector=False)

    def copies(self, blob: Blob, count: int) -> list[Blob]:
        if count == 1:
            return [blob]
        return [Blob(name, blob.vector) for name in self._add("Split", [blob], count, "")]

    def store(self, *arrays: np.ndarray | None, tagged: bool) -> None:
        """Weights of the layer before, without those that are None.

        Args:
            tagged: whether the layer reads in front of the first what type it has.
        """
        # 0: float32.
        self._weights += [struct.pack("<i", 0)] if tagged else []
        self._weights += [array.tobytes() for array in arrays if array is not None]

    def text(self) -> str:
        return "\n".join([str(_MAGIC), f"{len(self._layers)} {self._blobs}", *self._layers, ""])

    def weights(self) -> bytes:
        return b"".join(self._weights)
