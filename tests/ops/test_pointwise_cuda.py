"""pointwise's CUDA kernel, emulated or real: results, and which calls it takes."""

from __future__ import annotations

import pytest
import torch

import effkern
from effkern.ops.depthwise_conv2d.arguments import ACTIVATIONS as CODES
from effkern.ops.pointwise.cuda_backend import plan, pointwise
from effkern.reference.depthwise_conv2d import ACTIVATIONS
from effkern.testing.blocks import distance
from effkern.testing.poison import poisoned_memory
from effkern.testing.tolerances import assert_within_bound

DEVICES = {"cuda_emulated": "cpu", "cuda": "cuda"}
PRESENT = [name for name in DEVICES if effkern.backends()[name] is True]
if not PRESENT:
    pytest.skip(str(effkern.backends()["cuda_emulated"]), allow_module_level=True)

HALF, BFLOAT = torch.float16, torch.bfloat16
# Images, their size, channels in and out: half a step of products, a slice and half a step more,
# several slices; one channel tile and two; a tile of pixels and one more.
SIZES = {
    "half a step": (2, (3, 5), 8, 8),
    "one pixel more": (1, (5, 13), 40, 24),
    "two channel tiles": (3, (4, 7), 72, 72),
    "several slices": (1, (2, 3), 336, 16),
}
VECTORS = ("bias", "scale", "gate", "residual")


@pytest.fixture(params=PRESENT)
def device(request):
    with poisoned_memory(DEVICES[request.param]), effkern.backend(request.param):
        yield DEVICES[request.param]


def operands(device, size, dtype, present=("bias",)):
    """The tensors by name; those of VECTORS that are not in `present` are None."""
    images, pixels, channels, out = size
    generator = torch.Generator().manual_seed(sum(pixels) + channels)

    def draw(*shape, scale=1.0):
        values = torch.randn(shape, generator=generator, dtype=torch.float64) * scale
        return values.to(device, dtype)

    def image(channels):
        return draw(images, channels, *pixels).contiguous(memory_format=torch.channels_last)

    tensors = {"images": image(channels), "weight": draw(out, channels, scale=channels**-0.5)}
    vectors = {
        "bias": draw(out),
        "scale": draw(out),
        "gate": draw(images, channels).sigmoid(),
        "residual": image(out),
    }
    return tensors | {name: vectors[name] if name in present else None for name in VECTORS}


def reference(images, weight, bias, scale, gate, residual, activation=None):
    gated = images if gate is None else images * gate[:, :, None, None]
    y = torch.conv2d(gated, weight[:, :, None, None], bias)
    y = ACTIVATIONS[activation](y)
    y = y if scale is None else y * scale[:, None, None]
    return y if residual is None else y + residual


def check(tensors, activation=None):
    """Sums within the bound; gated numbers are rounded once, so the bound is in norm with those."""
    actual = pointwise(**tensors, activation=CODES[activation])
    assert actual.is_contiguous(memory_format=torch.channels_last)
    wide = {name: None if t is None else t.double() for name, t in tensors.items()}
    exact = reference(**wide, activation=activation)
    by_torch = reference(**tensors, activation=activation)
    if tensors["gate"] is not None:
        assert distance(actual, exact) <= distance(by_torch, exact) + torch.finfo(actual.dtype).eps
        return
    magnitudes = {name: None if t is None else t.abs() for name, t in wide.items()}
    assert_within_bound(actual, by_torch, exact, reference(**magnitudes))


@pytest.mark.parametrize("dtype", (HALF, BFLOAT), ids=str)
@pytest.mark.parametrize("size", SIZES.values(), ids=list(SIZES))
def test_results(device, size, dtype):
    check(operands(device, size, dtype), "silu")
    check(operands(device, size, dtype, ("bias", "scale", "residual")))
    check(operands(device, size, dtype, ("bias", "gate", "residual")))
    check(operands(device, size, dtype, ()))


@pytest.mark.parametrize("activation", CODES)
def test_activations(device, activation):
    present = ("scale", "residual")
    check(operands(device, SIZES["half a step"], HALF, present), activation)


def test_images_inside_a_tile(device):
    """Gates of as many images as a tile has pixels, and of fewer than it might have."""
    for images, pixels in ((70, (1, 1)), (3, (1, 22)), (2, (8, 8))):
        check(operands(device, (images, pixels, 24, 8), BFLOAT, ("gate",)))


def test_largest_tiles(device):
    for out, present in ((16, ("bias",)), (72, ("gate", "residual"))):
        size = (4, (65, 63), 16, out)
        found = plan(BFLOAT, 4, 65 * 63, 16, out, gate="gate" in present)
        assert (found.warps, found.tile_channels) == (4, 64 if out == 16 else 128)
        check(operands(device, size, BFLOAT, present))


def test_copies_of_views(device):
    """A weight that begins between two vectors, and images that are not channels_last."""
    tensors = operands(device, SIZES["one pixel more"], BFLOAT, ("bias", "residual"))
    wanted = pointwise(**tensors)
    odd = torch.empty(24 * 40 + 1, dtype=BFLOAT, device=device)[1:].view(24, 40)
    odd.copy_(tensors["weight"])
    planes = {name: tensors[name].contiguous() for name in ("images", "residual")}
    assert torch.equal(pointwise(**(tensors | planes | {"weight": odd})), wanted)


def test_infinities_stay_where_they_are(device):
    tensors = operands(device, (2, (5, 9), 40, 24), BFLOAT, ("gate",))
    tensors["images"][1, 39, 2, 3] = torch.inf
    finite = pointwise(**tensors).isfinite().all(1).cpu()
    wanted = torch.ones(2, 5, 9, dtype=torch.bool)
    wanted[1, 2, 3] = False
    assert torch.equal(finite, wanted)


def test_bad_arguments_of_the_operator(device):
    scope = torch.ops.effkern_emulated if device == "cpu" else torch.ops.effkern
    x, weight, bias, scale, gate, residual = operands(
        device, (2, (3, 5), 16, 24), BFLOAT, VECTORS
    ).values()  # fmt: skip
    nothing = (None,) * 4
    for tensors, words in (
        ((x.contiguous(), weight, *nothing), "input: wanted dense channels_last memory"),
        ((x[0], weight, *nothing), r"input: wanted \(N, C, H, W\)"),
        ((x.float(), weight, *nothing), "input: wanted float16 or bfloat16, got float32"),
        ((x, weight[:, :8], *nothing), "weight: wanted a contiguous tensor of 24 x 16"),
        ((x, weight[:, 0], *nothing), r"weight: wanted \(O, C\)"),
        ((x, weight.half(), *nothing), "weight: wanted bfloat16 as input is, got float16"),
        ((x, weight, bias[:8], None, None, None), "bias: wanted a contiguous tensor of 1 x 24"),
        ((x, weight, None, gate[0], None, None), "gate: wanted a contiguous tensor of 2 x 16"),
        ((x, weight, None, None, scale[1:], None), "scale: wanted a contiguous tensor of 1 x 24"),
        ((x, weight, None, None, None, x), r"residual: wanted shape \(2, 24, 3, 5\)"),
        ((x, weight[:, :0], *nothing), "weight: wanted a contiguous tensor of 24 x 16"),
        (
            (x[:0], weight, *nothing),
            "input: wanted a call that the CUDA kernel takes, got an empty",
        ),
    ):
        with pytest.raises(RuntimeError, match=f"^effkern.pointwise: {words}"):
            scope.pointwise(*tensors, 0, effkern.registry.selected)
    for activation, backend, words in ((7, None, "activation: wanted 0 to 6"), (0, 1, "backend: ")):
        selected = effkern.registry.selected if backend is None else backend
        with pytest.raises(RuntimeError, match=f"^effkern.pointwise: {words}"):
            scope.pointwise(x, weight, bias, gate, scale, residual, activation, selected)


@pytest.mark.parametrize(
    "change, words",
    (
        ({"dtype": torch.float32}, "a dtype other than float16 and bfloat16"),
        ({"channels": 12}, "channels that are no multiples of 8"),
        ({"out_channels": 20}, "channels that are no multiples of 8"),
        ({"gate": True, "activation": 3}, "an activation of gated channels"),
        ({"images": 0}, "an empty tensor or sizes that an int does not hold"),
        ({"images": 1 << 20, "pixels": 1 << 10}, "an empty tensor or sizes that an int"),
        ({"channels": 1 << 20}, "an empty tensor or sizes that an int"),
    ),
)
def test_refused(change, words):
    sizes = {"dtype": HALF, "images": 2, "pixels": 49, "channels": 16, "out_channels": 24}
    assert plan(**sizes).refusal is None
    assert words in plan(**(sizes | change)).refusal


def test_plan():
    """The largest tiles where products take longest; smaller ones where there are few blocks;
    memory that every device has."""
    many = plan(BFLOAT, 64, 56 * 56, 24, 144, activation=3)
    assert (many.warps, many.tile_pixels, many.tile_channels) == (4, 128, 128)
    assert many.grid == 64 * 56 * 56 // 128 * 2 and many.gate_rows == 0
    assert many.flops == 2 * 64 * 56 * 56 * 24 * 144
    assert many.bytes == 2 * (64 * 56 * 56 * (24 + 144) + 24 * 144)
    assert plan(BFLOAT, 64, 56 * 56, 144, 40, residual=True).tile_channels == 64
    long = plan(BFLOAT, 64, 28 * 28, 768, 192, residual=True)
    assert (long.warps, long.tile_channels, long.grid) == (8, 128, 64 * 28 * 28 // 256 * 2)
    few = plan(BFLOAT, 1, 49, 1152, 320, gate=True)
    assert (few.tile_pixels, few.tile_channels, few.gate_rows, few.grid) == (64, 64, 1, 5)
    small = plan(BFLOAT, 4096, 1, 960, 320, gate=True)
    assert small.gate_rows == small.tile_pixels
    assert max(p.shared_memory for p in (many, long, few, small)) <= 99 << 10
