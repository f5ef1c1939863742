"""The pointwise kernel: tiles, tails and everything around the product, in the interpreter."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import effkern
from effkern import _triton
from effkern.ops.depthwise_conv2d.arguments import ACTIVATIONS as CODES
from effkern.ops.pointwise.triton_backend import pointwise
from effkern.reference.depthwise_conv2d import ACTIVATIONS
from effkern.testing import interpreter_guard
from effkern.testing.blocks import distance
from effkern.testing.poison import SentinelBuffer, poisoned_memory
from effkern.testing.problems import with_layout
from effkern.testing.tolerances import assert_within_bound

if not _triton.interpreting():
    pytest.skip("wanted a process with TRITON_INTERPRET=1", allow_module_level=True)

from effkern.triton_kernels.pointwise import configs, launch  # noqa: E402

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
all_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])


@pytest.fixture(autouse=True)
def interpreted():
    interpreter_guard.install()
    with poisoned_memory("cpu"), effkern.backend("triton_interpreted"):
        yield


VECTORS = ("bias", "gate", "shift", "scale", "sample_scale", "residual")


def problem(batch, size, channels, out, dtype=torch.float32, present=VECTORS):
    generator = torch.Generator().manual_seed(channels + out)

    def draw(*shape, dtype=dtype, scale=1.0):
        return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)

    vectors = {
        "bias": draw(out),
        "gate": draw(batch, channels, dtype=torch.float32),
        "shift": draw(channels, dtype=torch.float32),
        "scale": draw(out),
        "sample_scale": draw(batch),
        "residual": with_layout(draw(batch, out, *size), "channels_last"),
    }
    return {
        "images": with_layout(draw(batch, channels, *size), "channels_last"),
        "weight": draw(out, channels, scale=channels**-0.5),
        **{name: vectors[name] if name in present else None for name in VECTORS},
    }


def reference(images, weight, bias, gate, shift, scale, sample_scale, residual,
              activation=None, input_activation=None):  # fmt: skip
    dtype, planes = images.dtype, (slice(None), None, None)
    source = images if gate is None else images * gate[:, :, None, None]
    source = source if shift is None else source + shift[planes]
    y = torch.einsum("nchw,oc->nohw", ACTIVATIONS[input_activation](source).to(dtype), weight)
    y = ACTIVATIONS[activation](y if bias is None else y + bias[planes])
    y = y if scale is None else y * scale[planes]
    y = y if sample_scale is None else y * sample_scale[:, None, None, None]
    return y if residual is None else y + residual


def run(tensors, activation=None, input_activation=None):
    operands = [tensors[name] for name in ("images", "weight", "bias")]
    rest = {name: tensors[name] for name in VECTORS[1:]}
    codes = {"activation": CODES[activation], "input_activation": CODES[input_activation]}
    return pointwise("pointwise", *operands, **codes, **rest)


def check(tensors, **activations):
    actual, by_torch = run(tensors, **activations), reference(**tensors, **activations)
    wide = {name: None if t is None else t.double() for name, t in tensors.items()}
    exact = reference(**wide, **activations)
    assert actual.is_contiguous(memory_format=torch.channels_last)
    if tensors["gate"] is None and tensors["shift"] is None or actual.dtype == torch.float32:
        magnitudes = {name: None if t is None else t.abs() for name, t in wide.items()}
        assert_within_bound(actual, by_torch, exact, reference(**magnitudes))
    else:
        # What is multiplied is rounded to 16 bits, as it is by torch.
        assert actual.dtype == by_torch.dtype
        assert (
            distance(actual, exact) <= 2 * distance(by_torch, exact) + torch.finfo(actual.dtype).eps
        )


# Images, pixels, channels in and out: one of each, remainders, whole tiles, several of each.
SIZES = (
    (1, (1, 1), 1, 1),
    (2, (5, 7), 13, 37),
    (3, (8, 8), 64, 32),
    (2, (9, 15), 70, 100),
)


@all_dtypes
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("present", ((), ("bias", "residual"), VECTORS), ids=len)
def test_results(present, size, dtype):
    check(problem(*size, dtype, present), activation="silu")


@all_dtypes
@pytest.mark.parametrize("present", (("bias", "scale"), VECTORS), ids=len)
def test_large_tiles(monkeypatch, present, dtype):
    monkeypatch.setattr(configs, "_FEW_PROGRAMS", 0)
    check(problem(2, (13, 10), 72, 130, dtype, present), activation="gelu")


def test_more_blocks_of_pixels_than_a_group():
    present = ("bias", "residual")
    blocks = -(-19 * 31 // configs.config(1, 19 * 31, 8, 40, 4, 0).pixels)
    assert blocks % configs.config(1, 19 * 31, 8, 40, 4, 0).group and blocks > 8
    check(problem(1, (19, 31), 8, 40, present=present))


@pytest.mark.parametrize("one", VECTORS)
def test_each_operand_alone(one):
    check(problem(2, (3, 5), 9, 20, present=(one,)))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name):
    tensors = problem(2, (3, 5), 9, 20)
    check(tensors, activation=name)
    check(tensors, input_activation=name)


def test_64_bit_offsets(monkeypatch):
    monkeypatch.setattr(launch, "_MOST", 0)
    check(problem(3, (5, 7), 13, 37))


def test_images_and_vectors_of_other_strides():
    tensors = problem(2, (4, 6), 9, 20)
    wanted = run(tensors)
    apart = {name: t.repeat_interleave(2, 0)[::2] for name, t in tensors.items()}
    assert torch.equal(run(apart), wanted)
    planes = {name: tensors[name].contiguous() for name in ("images", "residual")}
    assert torch.equal(run(tensors | planes), wanted)


def test_views_at_any_address():
    tensors = problem(2, (5, 7), 24, 40, torch.bfloat16)
    wanted = run(tensors, "silu")
    buffers = {name: SentinelBuffer(t, offset=i + 1) for i, (name, t) in enumerate(tensors.items())}
    actual = run({name: buffer.view for name, buffer in buffers.items()}, "silu")
    assert torch.equal(actual, wanted)
    for name, buffer in buffers.items():
        buffer.assert_unchanged(name)


def test_infinite_pixels_stay_where_they_are():
    tensors = problem(2, (5, 7), 13, 37, present=("gate", "residual"))
    tensors["images"][1, 3, 2, 5] = torch.inf
    with np.errstate(invalid="ignore"):
        actual = run(tensors)
    wanted = torch.zeros(2, 37, 5, 7, dtype=torch.bool)
    wanted[1, :, 2, 5] = True
    assert torch.equal(~actual.isfinite(), wanted)


@pytest.mark.parametrize("activation", (0, CODES["silu"], CODES["gelu"]))
@pytest.mark.parametrize("itemsize", (2, 4))
def test_tiles_suit_triton(itemsize, activation):
    for images, pixels in ((1, 1), (1, 196), (128, 49), (128, 196), (1, 128 * 3136), (7, 3136)):
        for channels in (1, 16, 24, 40, 96, 672, 3072):
            for out in (1, 16, 24, 40, 96, 320, 3072):
                config = configs.config(images, pixels, channels, out, itemsize, activation)
                for value in (config.pixels, config.reduction, config.out):
                    assert value & (value - 1) == 0 and value >= 16
                # Of a thread's 255 registers.
                assert config.pixels * config.out <= config.registers // 2 * 32 * config.warps
                step = (config.pixels + config.out) * config.reduction * itemsize
                # What every device has for a block; gate and shift are float32.
                assert (step + 8 * config.reduction) * config.stages <= 99 << 10


def test_small_problems_are_cut_into_more_programs():
    def programs(config, pixels, out):
        return -(-pixels // config.pixels) * -(-out // config.out)

    few = configs.config(1, 196, 112, 672, 2, 0)
    many = configs.config(1, 128 * 196, 112, 672, 2, 0)
    assert programs(few, 196, 672) > 3 * programs(many, 196, 672)
    assert many.pixels * many.out > 4 * few.pixels * few.out
