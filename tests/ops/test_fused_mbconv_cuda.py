"""fused_mbconv's CUDA kernel, emulated or real: results, and which calls it takes."""

from __future__ import annotations

import pytest
import torch

import effkern
from effkern.functional import fused_mbconv
from effkern.ops.fused_mbconv import cuda_backend
from effkern.reference.fused_mbconv import fused_mbconv as reference
from effkern.testing.blocks import check_block, mapped
from effkern.testing.fused_mbconv import problem
from effkern.testing.poison import poisoned_memory

DEVICES = {"cuda_emulated": "cpu", "cuda": "cuda"}
PRESENT = [name for name in DEVICES if effkern.backends()[name] is True]
if not PRESENT:
    pytest.skip(str(effkern.backends()["cuda_emulated"]), allow_module_level=True)

HALF, BFLOAT = torch.float16, torch.bfloat16
SAME = ((0, 1), (0, 1))
# One for each path: channels that fill no vector of 16 products, even and odd numbers of vectors;
# chunks of 64 expanded channels, half of one, the rest of one; 1 to 4 steps of the last slice; 64
# and 96 columns of the projection, all or some of them; tiles that end past the image.
CASES = {
    "8 channels": {"dtype": BFLOAT},
    "24 channels, stride 2": {
        "channels": 24, "hidden": 96, "out": 48, "size": (15, 14), "stride": 2, "padding": SAME,
        "dtype": BFLOAT, "without": ("residual",),
    },
    "48 channels": {
        "batch": 1, "channels": 48, "hidden": 192, "out": 48, "size": (9, 13), "dtype": HALF,
    },
    "72 outputs": {"batch": 1, "channels": 16, "hidden": 40, "out": 72, "dtype": HALF},
    "96 outputs, no biases": {
        "channels": 32, "hidden": 64, "out": 96, "size": (1, 33), "dtype": BFLOAT,
        "without": ("expand_bias", "project_bias"),
    },
    "5x5, stride 2": {
        "channels": 40, "hidden": 72, "out": 24, "size": (12, 19), "kernel": 5, "stride": 2,
        "padding": ((1, 2), (2, 0)), "dtype": HALF,
    },
    "2x2, stride 3": {"size": (10, 11), "kernel": 2, "stride": 3, "dtype": BFLOAT},
    "no projection": {
        "channels": 24, "hidden": 24, "size": (11, 7), "dtype": BFLOAT,
        "without": ("project_weight",),
    },
    "no projection, 136 channels": {
        "batch": 1, "channels": 8, "hidden": 136, "stride": 2, "dtype": HALF,
        "without": ("project_weight", "residual"),
    },
    # Blocks of four warps.
    "many pixels": {"batch": 64, "hidden": 16, "size": (13, 18), "dtype": BFLOAT},
}  # fmt: skip


@pytest.fixture(params=PRESENT)
def device(request):
    with poisoned_memory(DEVICES[request.param]), effkern.backend(request.param):
        yield DEVICES[request.param]


def arguments_on(device, **keywords):
    return mapped(lambda tensor: tensor.to(device), problem(**keywords))


def check(arguments, **keywords):
    check_block(fused_mbconv, reference, arguments, "channels_last", stages=3, **keywords)


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_results(device, case):
    check(arguments_on(device, **case))


@pytest.mark.parametrize("activation", (None, "relu6", "gelu_tanh", "hardswish"))
def test_activations(device, activation):
    check(arguments_on(device, batch=1, dtype=HALF), activation=activation)


def test_input_as_residual_and_views(device):
    """Weights that are copied first, and a residual that is the input."""
    arguments = arguments_on(device, batch=1, dtype=BFLOAT)
    image = arguments["input"].contiguous(memory_format=torch.channels_last)
    odd = torch.empty(8 * 24 + 1, dtype=BFLOAT, device=device)[1:].view(8, 24)
    odd.copy_(arguments["project_weight"].flatten(1))
    arguments |= {"input": image, "residual": image}
    wanted = fused_mbconv(**arguments)
    assert torch.equal(fused_mbconv(**(arguments | {"project_weight": odd})), wanted)
    assert torch.equal(fused_mbconv(**(arguments | {"residual": image.contiguous()})), wanted)
    exact = reference(**mapped(torch.Tensor.double, arguments))
    torch.testing.assert_close(wanted.double(), exact, rtol=0.02, atol=0.02)


def test_infinities_stay_where_they_are(device):
    arguments = arguments_on(device, batch=1, size=(9, 20), dtype=BFLOAT)
    image = arguments["input"].contiguous(memory_format=torch.channels_last)
    image[0, 0, 4, 3] = torch.inf
    output = fused_mbconv(**(arguments | {"input": image}))
    reached = torch.zeros(9, 20, dtype=torch.bool)
    reached[3:6, 2:5] = True
    assert torch.equal(output.isfinite().all(1)[0].cpu(), ~reached)


@pytest.mark.parametrize(
    "change, words",
    (
        ({"dtype": torch.float32}, "a dtype other than float16 and bfloat16"),
        ({"channels": 12}, "channels that are no multiples of 8"),
        ({"out": 104}, "a projection to more than 96 channels"),
        ({"channels": 1024, "batch": 1, "hidden": 8, "size": (14, 14)}, "shared memory does not"),
        ({"batch": 0}, "an input that is not channels_last|an empty tensor"),
    ),
)
def test_refused(device, change, words):
    arguments = arguments_on(device, **({"dtype": BFLOAT} | change))
    last = torch.channels_last
    arguments["input"] = arguments["input"].contiguous(memory_format=last)
    with pytest.raises(RuntimeError, match=f"^effkern.fused_mbconv: input: wanted .*{words}"):
        fused_mbconv(**arguments)


def test_contiguous_images_are_refused_and_gradients_composed(device):
    arguments = arguments_on(device, batch=1, dtype=BFLOAT)
    with pytest.raises(RuntimeError, match="got an input that is not channels_last"):
        fused_mbconv(**arguments)
    arguments["expand_weight"].requires_grad_()
    assert fused_mbconv(**arguments).requires_grad


def test_bad_arguments_of_the_operator(device):
    scope = torch.ops.effkern_emulated if device == "cpu" else torch.ops.effkern
    arguments = arguments_on(device, batch=1, dtype=BFLOAT)
    image = arguments["input"].contiguous(memory_format=torch.channels_last)
    weight = arguments["expand_weight"].contiguous(memory_format=torch.channels_last)
    integers = (1, 1, 1, 1, 1, 1, 3, effkern.registry.selected)
    for tensors, words in (
        ((arguments["input"], weight), "input: wanted dense channels_last memory"),
        ((image, weight[:, :, :0]), "expand_weight: wanted a kernel that fits"),
        ((image, weight.half()), "expand_weight: wanted bfloat16 as input is, got float16"),
        ((image, weight, weight[0, 0, 0]), "expand_bias: wanted a contiguous tensor of 1 x 24"),
        ((image, weight, *[None] * 3, weight[0, 0, 0]), "project_scale: wanted with project_w"),
    ):
        padded = (*tensors, *(None,) * (7 - len(tensors)))
        with pytest.raises(RuntimeError, match=f"^effkern.fused_mbconv: {words}"):
            scope.fused_mbconv(*padded, *integers)


def test_plan():
    """Blocks of 128 pixels where there are enough, of 64 where not; a tile fits the image."""
    sizes = (48, 75, 75, 192, 48, 3, 3, 1, 1, 1, 1, 1, 1)
    many, one = (cuda_backend.plan("bfloat16", True, batch, *sizes) for batch in (64, 1))
    assert many.refusal is None and (many.warps, one.warps) == (4, 2)
    assert (many.tile_height, many.tile_width) == (5, 25) and many.grid == 64 * 45
    assert max(many.shared_memory, one.shared_memory) <= 99 << 10
    assert many.flops == 2 * 64 * 75 * 75 * 192 * (9 * 48 + 48)
