"""mbconv with weights that were packed before the call: the same numbers, to the bit."""

from __future__ import annotations

import pytest
import torch

from effkern import _library
from effkern.ops import mbconv
from effkern.testing.poison import poisoned_memory

pytestmark = pytest.mark.skipif(not _library.available(), reason=str(_library.load_error()))

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Channels in, expanded, of squeeze-and-excitation, out, pixels, stride: whole panels, one and two
# vectors of a last one, more pixels than output channels and fewer.
SIZES = (
    (8, 32, 8, 32, (5, 7), 1),
    (13, 40, 0, 24, (9, 9), 2),
    (24, 100, 6, 70, (6, 5), 1),
    (5, 19, 3, 3, (12, 11), 1),
    (48, 200, 12, 48, (31, 30), 2),
)


def operands_and_image(size, dtype, norm=False, expands=True, memory_format=torch.channels_last):
    channels, hidden, reduced, out, pixels, stride = size
    generator = torch.Generator().manual_seed(sum(pixels) + hidden)

    def draw(*shape):
        return torch.randn(shape, generator=generator).div_(shape[-1] ** 0.5).to(dtype)

    x = draw(3, channels if expands else hidden, *pixels).contiguous(memory_format=memory_format)
    expand = (draw(hidden, channels), draw(hidden)) if expands else (None, None)
    se = None
    if reduced:
        se = (draw(reduced, hidden), draw(reduced), draw(hidden, reduced), None, "silu", "sigmoid")
    affine = (draw(hidden), draw(hidden)) if norm else None
    arguments = (*expand, draw(hidden, 1, 3, 3), draw(hidden), se, affine, draw(out, hidden))
    found = mbconv.operands(x, *arguments, draw(out), stride, 1, "silu", None)
    assert found is not None and found.packed == (None, None)
    return found, x


@pytest.fixture(autouse=True)
def fresh_memory_full_of_nan():
    with poisoned_memory("cpu"):
        yield


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "arguments",
    ({}, {"norm": True}, {"expands": False, "memory_format": torch.contiguous_format}),
    ids=("plain", "norm", "no expansion"),
)
def test_same_results(size, dtype, arguments):
    operands, x = operands_and_image(size, dtype, **arguments)
    packed = operands._replace(packed=mbconv.pack(operands))
    assert (packed.packed[0] is None) == (operands.weights[0] is None)
    assert torch.equal(mbconv.infer(x, packed, None), mbconv.infer(x, operands, None))


def test_packed_weights_are_what_is_multiplied():
    operands, x = operands_and_image(SIZES[0], torch.float32)
    expand, project = mbconv.pack(operands)
    zeros = operands._replace(packed=(expand, torch.zeros_like(project)))
    bias = operands.weights[11]
    result = mbconv.infer(x, zeros, None)
    assert torch.equal(result, bias[:, None, None].expand_as(result))


@pytest.mark.parametrize("change", (lambda t: t[1:], lambda t: t.double(), lambda t: t[None]))
def test_refuses_what_was_not_packed_for_it(change):
    operands, x = operands_and_image(SIZES[0], torch.float32)
    expand, project = mbconv.pack(operands)
    with pytest.raises(RuntimeError, match="pointwise: packed: wanted"):
        mbconv.infer(x, operands._replace(packed=(expand, change(project))), None)


def test_packing_refuses_columns():
    with pytest.raises(RuntimeError, match="weight: wanted rows without gaps"):
        torch.ops.effkern._pack_pointwise(torch.randn(6, 4).t())
    with pytest.raises(RuntimeError, match="weight: wanted float32, float16 or bfloat16"):
        torch.ops.effkern._pack_pointwise(torch.randn(6, 4, dtype=torch.float64))
