"""pointwise: against a matrix product in float64, with everything around it."""

from __future__ import annotations

import itertools

import pytest
import torch

from effkern import _library
from effkern.ops.pointwise import as_image, pointwise_into
from effkern.reference.depthwise_conv2d import ACTIVATIONS
from effkern.testing.poison import poisoned_memory
from effkern.testing.problems import with_layout
from effkern.testing.tolerances import assert_within_bound

pytestmark = pytest.mark.skipif(not _library.available(), reason=str(_library.load_error()))

CODES = {None: 0, "relu": 1, "relu6": 2, "silu": 3, "gelu": 4, "gelu_tanh": 5, "hardswish": 6}
LAYOUTS = ("contiguous", "channels_last")
# Images, pixels, channels in and out: whole panels and tiles, and remainders of every kind.
SIZES = (
    (1, (1, 1), 1, 1),
    (2, (5, 7), 13, 37),
    (3, (8, 9), 24, 24),
    (1, (20, 31), 33, 16),
    (2, (3, 1), 40, 100),
    (1, (1, 13), 25, 70),
)


@pytest.fixture(autouse=True)
def fresh_memory_full_of_nan():
    with poisoned_memory("cpu"):
        yield


def draw(*shape, dtype, scale=1.0):
    generator = torch.Generator().manual_seed(sum(shape))
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)


def expected(images, weight, bias, scale, gate, residual, activation, product=torch.einsum):
    gated = images if gate is None else images * gate[:, :, None, None]
    y = product("nchw,oc->nohw", gated, weight)
    per_channel = [None if t is None else t[:, None, None] for t in (scale, bias)]
    y = y if scale is None else y * per_channel[0]
    y = y if bias is None else y + per_channel[1]
    y = ACTIVATIONS[activation](y)
    return y if residual is None else y + residual


def check(size, dtype, layouts, activation="silu", present=("bias", "scale", "gate", "residual")):
    batch, pixels, channels, out = size
    images = draw(batch, channels, *pixels, dtype=dtype)
    weight = draw(out, channels, dtype=dtype, scale=channels**-0.5)
    vectors = {
        "bias": draw(out, dtype=dtype),
        "scale": draw(out, dtype=dtype),
        "gate": draw(batch, channels, dtype=dtype),
        "residual": draw(batch, out, *pixels, dtype=dtype),
    }
    values = {name: value if name in present else None for name, value in vectors.items()}

    def wide(value):
        return None if value is None else value.double()

    arguments = [values[name] for name in ("bias", "scale", "gate", "residual")]
    operands = (images, weight, *arguments, activation)
    reference = expected(*[wide(v) for v in operands[:-1]], activation)
    magnitudes = [None if v is None else v.double().abs() for v in operands[:-1]]
    magnitude = expected(*magnitudes, None)
    result = with_layout(torch.empty(batch, out, *pixels, dtype=dtype), layouts[1])
    residual = values["residual"]
    pointwise_into(
        result,
        with_layout(images, layouts[0]).clone(),
        weight,
        values["bias"],
        scale=values["scale"],
        gate=values["gate"],
        residual=None if residual is None else with_layout(residual, layouts[1]),
        activation=CODES[activation],
    )
    if dtype == torch.float64:
        # Of the operators that the reference is made of.
        torch.testing.assert_close(result, reference)
    else:
        assert_within_bound(result, expected(*operands), reference, magnitude)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float16, torch.bfloat16, torch.float64))
@pytest.mark.parametrize("layouts", list(itertools.product(LAYOUTS, LAYOUTS)), ids="-".join)
def test_results(layouts, dtype):
    for size in SIZES:
        for present in (
            (),
            ("bias", "residual"),
            ("scale",),
            ("bias", "scale", "gate", "residual"),
        ):
            check(size, dtype, layouts, present=present)


@pytest.mark.parametrize("activation", CODES)
def test_activations(activation):
    check(SIZES[1], torch.float32, ("channels_last",) * 2, activation)


@pytest.mark.parametrize("pixels", range(1, 26))
def test_every_remainder_of_pixels(pixels):
    check((1, (pixels, 1), 9, 24), torch.float32, ("channels_last",) * 2)


@pytest.mark.parametrize("threads", (1, 2, 3))
def test_threads_share_panels_and_pixels(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for size in ((2, (40, 50), 48, 72), (1, (7, 7), 300, 500)):
            check(size, torch.float32, ("channels_last", "contiguous"))
            check(size, torch.float32, ("channels_last",) * 2, present=())
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("pixels", (3, 5, 7, 60))
def test_results_do_not_depend_on_threads(pixels):
    images, weight = (
        draw(1, 500, pixels, 1, dtype=torch.float32),
        draw(40, 500, dtype=torch.float32),
    )
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            results.append(torch.empty(1, 40, pixels, 1))
            pointwise_into(results[-1], images, weight, None)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


def test_slices_of_a_batch_and_of_a_weight():
    images = with_layout(draw(4, 24, 5, 6, dtype=torch.float32), "channels_last")
    weight, out = draw(16, 24, dtype=torch.float32), torch.empty(2, 5, 6, 16).permute(0, 3, 1, 2)
    pointwise_into(out, images[::2], weight[:, ::2].repeat_interleave(2, 1), None)
    wanted = expected(images[::2], weight[:, ::2].repeat_interleave(2, 1), *[None] * 5)
    torch.testing.assert_close(out, wanted)
    matrix = torch.empty(30, 16)
    pixels = images[1].permute(1, 2, 0).reshape(30, 24)
    pointwise_into(as_image(matrix), as_image(pixels), weight, None)
    torch.testing.assert_close(matrix, pixels @ weight.t())


def test_other_strides_are_refused():
    out = torch.empty(1, 8, 4, 4)
    with pytest.raises(RuntimeError, match="effkern.pointwise: input: wanted adjacent channels"):
        pointwise_into(out, torch.empty(1, 8, 8, 8)[:, :, ::2, ::2], torch.empty(8, 8), None)
