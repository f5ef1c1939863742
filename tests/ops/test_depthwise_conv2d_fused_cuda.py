"""depthwise_conv2d_fused on CUDA kernels, emulated or real: prologue, sums, gradients, choice."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import effkern
from effkern.functional import depthwise_conv2d, depthwise_conv2d_fused
from effkern.ops.depthwise_conv2d import fused
from effkern.reference.depthwise_conv2d import depthwise_conv2d_fused as reference
from effkern.testing.extended_precision import widened
from effkern.testing.poison import poisoned_memory
from effkern.testing.problems import DepthwiseConv2dCase as Case
from effkern.testing.problems import with_layout
from effkern.testing.tolerances import assert_within_bound

DEVICES = {"cuda_emulated": "cpu", "cuda": "cuda"}
PRESENT = [name for name in DEVICES if effkern.backends()[name] is True]
if not PRESENT:
    pytest.skip(str(effkern.backends()["cuda_emulated"]), allow_module_level=True)

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
CASES = (
    Case(channels=8, height=9, width=11),
    Case(channels=8, height=1, width=7, bias=False),
    Case(batch=3, channels=40, height=7, width=7),
    Case(channels=24, height=14, width=14),
    Case(channels=264, height=5, width=6, batch=1),
    # Rows and columns of several tiles.
    Case(batch=1, channels=8, height=67, width=130),
    Case(channels=16, height=17, width=19, padding=2),
    Case(channels=16, height=12, width=21, padding=((0, 2), (2, 1))),
    Case(channels=24, height=15, width=22, stride=(2, 2)),
    Case(channels=8, height=28, width=28, stride=(2, 2), kernel=(5, 5), padding=((1, 2), (2, 1))),
    # More planes than a block takes, and tiles that end below the image.
    Case(batch=2, channels=96, height=10, width=10),
)
WIDE_CASES = (
    Case(channels=8, height=13, width=14, kernel=(5, 5), padding=2),
    Case(batch=3, channels=12, height=14, width=15, kernel=(7, 7), padding=3),
)
# Of 16-bit types, which take tensor cores.
PRODUCT_CASES = (
    Case(channels=8, height=13, width=14, kernel=(5, 5), padding=2),
    # Several images for each product of small maps, and channels that do not fill a block.
    Case(batch=5, channels=24, height=7, width=7, kernel=(7, 7), padding=3),
    Case(batch=1, channels=8, height=31, width=15, kernel=(7, 7), padding=((0, 4), (5, 1))),
    # Tiles of columns.
    Case(batch=1, channels=8, height=9, width=139, kernel=(5, 5), padding=((2, 1), (1, 3))),
)
LAYOUTS = ("contiguous", "channels_last")
PROBLEMS = [
    (case, dtype, layout)
    for case in CASES + WIDE_CASES + PRODUCT_CASES
    for dtype in DTYPES
    if case in CASES or (case in WIDE_CASES) == (dtype == torch.float32)
    for layout in LAYOUTS
]
layouts = pytest.mark.parametrize("layout", LAYOUTS)


@pytest.fixture(params=PRESENT)
def device(request, monkeypatch):
    """That of each backend in turn; nothing may be composed."""

    def compose(*_):
        raise AssertionError("composed")

    monkeypatch.setattr(fused, "_compose", compose)
    with poisoned_memory(DEVICES[request.param]), effkern.backend(request.param):
        yield DEVICES[request.param]


def per_channel(channels, device):
    """A scale, which is negative somewhere, and a shift that no padding can be mistaken for."""
    generator = torch.Generator().manual_seed(7)
    scale, shift = torch.randn(2, channels, generator=generator)
    return {"input_scale": scale.to(device), "input_shift": (2 + shift).to(device)}


def exact_output(tensors, case, hooks, rounds):
    """In float64, and the sum of the magnitudes of what was added."""
    input, weight, bias = (None if t is None else t.double().cpu() for t in tensors)
    hooks = {name: v.double().cpu() if torch.is_tensor(v) else v for name, v in hooks.items()}
    # The centre tap of a 1x1 kernel: the prologue alone.
    alone = {name: value for name, value in hooks.items() if name.startswith("input_")}
    one = torch.ones(input.shape[1], 1, 1, 1).double()
    source = reference(input, one, **alone)
    if rounds:
        source = source.to(tensors[0].dtype).double()
    output = reference(source, weight, bias, **case.kwargs, activation=hooks.get("activation"))
    size = reference(source.abs(), weight.abs(), bias.abs() if bias is not None else None,
                     **case.kwargs)  # fmt: skip
    return output, size


def check_sums(output, actual, sums):
    """Sums of the numbers that were returned, as exact as torch's."""
    over = (2, 3) if sums == "spatial" else (0, 2, 3)
    wide, exact = output.float().cpu(), widened(output.cpu())
    for power, got in zip((1, 2), actual, strict=False):
        assert got.is_contiguous() and got.dtype == torch.float32
        assert_within_bound(
            got.cpu(),
            (wide**power).sum(over),
            (exact**power).sum(over),
            (np.abs(exact) ** power).sum(over),
            what=f"sum of powers {power}",
        )


@pytest.mark.parametrize("prologue", (None, "silu", "relu6", "hardswish"))
@pytest.mark.parametrize("sums", ("channel", "spatial"))
@pytest.mark.parametrize(
    "case, dtype, layout", PROBLEMS, ids=lambda value: getattr(value, "id", str(value))
)
def test_results(device, case, dtype, sums, prologue, layout):
    input, weight, bias, _ = case.tensors(dtype, device, layout)
    hooks = {"activation": "hardswish"}
    if prologue:
        hooks |= per_channel(case.channels, device) | {"input_activation": prologue}
    output, *rest = depthwise_conv2d_fused(input, weight, bias, **case.kwargs, **hooks, sums=sums)
    assert len(rest) == (1 if sums == "spatial" else 2)
    check_sums(output, rest, sums)
    plain = depthwise_conv2d(input, weight, bias, **case.kwargs, activation="hardswish")
    assert output.stride() == plain.stride()
    if not prologue:
        torch.testing.assert_close(output, plain, rtol=1e-2, atol=1e-2)
    rounds = dtype != torch.float32 and (layout == "contiguous" or case in PRODUCT_CASES)
    exact, size = exact_output((input, weight, bias), case, hooks, rounds)
    eps = torch.finfo(dtype).eps
    # Now and then, a source beside the middle between two numbers is rounded to the other one.
    allowed = eps * exact.abs() + (eps / 8 if rounds else 0) * size + 1e-6 * size
    worst = ((output.double().cpu() - exact).abs() / (allowed + 1e-6)).max()
    assert worst <= 1


@layouts
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape, kernel",
    (
        ((1, 16, 112, 112), 3),
        ((16, 40, 14, 15), 3),
        ((64, 8, 7, 7), 3),
        ((1, 8, 64, 132), 5),
        ((64, 8, 7, 7), 5),
    ),
    ids=str,
)
def test_long_sums_and_two_calls(device, shape, kernel, dtype, layout):
    input = torch.randn(shape, generator=torch.Generator().manual_seed(3)) + 100
    input = with_layout(input.to(dtype), layout).to(device)
    weight = torch.full((shape[1], 1, kernel, kernel), 0.25, dtype=dtype, device=device)
    for sums in ("channel", "spatial"):
        output, *rest = depthwise_conv2d_fused(input, weight, padding=kernel // 2, sums=sums)
        check_sums(output, rest, sums)
        again = depthwise_conv2d_fused(input, weight, padding=kernel // 2, sums=sums)
        assert all(map(torch.equal, again, (output, *rest)))


@layouts
@pytest.mark.parametrize("kernel, dtype", ((3, torch.float32), (5, torch.float16)), ids=str)
def test_nan_stays_in_its_channel_and_padding_is_zero(device, kernel, dtype, layout):
    input = torch.zeros(2, 16, 6, 9, dtype=dtype)
    input[1, 13, 2, 4] = torch.nan
    hooks = {"input_scale": torch.ones(16), "input_shift": torch.zeros(16)}
    # Of a padding that went through the prologue.
    hooks["input_scale"][5] = torch.nan
    hooks = {name: value.to(device) for name, value in hooks.items()}
    output, sum, squares = depthwise_conv2d_fused(
        with_layout(input, layout).to(device),
        torch.ones(16, 1, kernel, kernel, dtype=dtype, device=device),
        padding=((kernel, 2), (kernel // 2, kernel // 2)),
        **hooks,
        sums="channel",
    )
    bad = torch.zeros(16, dtype=torch.bool)
    bad[[5, 13]] = True
    assert torch.equal(sum.isnan().cpu(), bad) and torch.equal(squares.isnan().cpu(), bad)
    # The outermost rows meet zeros only, whatever the scale.
    assert torch.equal(output[:, 5, 0].cpu(), torch.zeros(2, 9, dtype=dtype))


@layouts
@pytest.mark.parametrize("sums", ("channel", "spatial"))
def test_gradients(device, sums, layout):
    case = Case(channels=8, height=9, width=12)
    input, weight, bias, _ = case.tensors(torch.float32, device, layout)
    hooks = {"activation": "relu", "input_activation": "silu", "sums": sums}

    def gradients(function, *leaves):
        leaves = [leaf.detach().requires_grad_() for leaf in leaves]
        results = function(
            *leaves[:3], **case.kwargs, **hooks, input_scale=leaves[3], input_shift=leaves[4]
        )
        total = sum((i + 1) * (result * result).mean() for i, result in enumerate(results))
        return torch.autograd.grad(total, leaves)

    leaves = [input, weight, bias, *per_channel(8, device).values()]
    actual = gradients(depthwise_conv2d_fused, *leaves)
    wanted = gradients(reference, *(leaf.double() for leaf in leaves))
    for got, exact in zip(actual, wanted, strict=True):
        assert (got.double() - exact).norm() <= 1e-5 * exact.norm()


@layouts
def test_unbatched_and_a_strided_scale(device, layout):
    case = Case(batch=1, channels=8, height=9, width=11)
    input, weight, bias, _ = case.tensors(torch.float32, device, layout)
    scale = torch.stack((per_channel(8, device)["input_scale"], torch.full((8,), torch.nan)), 1)
    results = depthwise_conv2d_fused(
        input, weight, bias, padding=1, input_scale=scale[:, 0], sums="spatial"
    )
    if layout == "contiguous":
        single = depthwise_conv2d_fused(
            input[0], weight, bias, padding=1, input_scale=scale[:, 0], sums="spatial"
        )
        assert all(torch.equal(a[0], b) for a, b in zip(results, single, strict=True))
    wanted = reference(input, weight, bias, padding=1, input_scale=scale[:, 0], sums="spatial")
    torch.testing.assert_close(results, wanted, rtol=1e-5, atol=1e-5)


COMPOSED = {
    "gelu_of_the_input": {"input_activation": "gelu"},
    "gelu_of_the_output": {"activation": "gelu_tanh"},
    "dilation": {"dilation": 2},
    "9x9": {"dtype": torch.bfloat16, "kernel": 9},
    "channels_of_tensor_cores": {
        "channels": 12,
        "dtype": torch.bfloat16,
        "kernel": 7,
        "layout": "channels_last",
    },
    "float64": {"dtype": torch.float64},
    "channels": {"channels": 6, "layout": "channels_last"},
    "narrow": {"width": 4},
    "both_layouts": {"channels": 1},
    "strided": {"layout": "transposed"},
}


@pytest.mark.parametrize("name", list(COMPOSED))
@pytest.mark.parametrize("backend_name", PRESENT)
def test_what_has_no_hooks_is_composed(backend_name, name):
    change = {"channels": 8, "width": 12, "kernel": 3, "dtype": torch.float32} | COMPOSED[name]
    channels, kernel, dtype = change["channels"], change["kernel"], change["dtype"]
    device = DEVICES[backend_name]
    input = torch.randn(2, channels, 10, change["width"]).to(device, dtype)
    input = with_layout(input, change.get("layout", "contiguous"))
    weight = torch.randn(channels, 1, kernel, kernel).to(device, dtype)
    arguments = {
        "stride": change.get("stride", 1),
        "padding": kernel // 2,
        "dilation": change.get("dilation", 1),
        "input_activation": change.get("input_activation", "relu"),
        "activation": change.get("activation"),
        "sums": "channel",
    }
    with effkern.backend(backend_name):
        actual = depthwise_conv2d_fused(input, weight, **arguments)
    wanted = reference(input, weight, **arguments)
    tolerance = 3e-2 if dtype == torch.bfloat16 else 1e-4
    for got, exact in zip(actual, wanted, strict=True):
        assert (got.double() - exact.double()).norm() <= tolerance * exact.double().norm()
        assert got.device.type == device


@pytest.mark.skipif("cuda_emulated" not in PRESENT, reason="wanted the emulated library")
def test_the_operator_refuses_what_it_has_no_kernel_for():
    operator = torch.ops.effkern_emulated.depthwise_conv2d_fused.default
    input, weight = torch.ones(1, 8, 9, 9), torch.ones(8, 1, 4, 4)
    geometry, code = (1, 1, 0, 0, 0, 0, 1, 1), effkern.registry.BACKENDS["cuda_emulated"]
    with pytest.raises(RuntimeError, match="direct CUDA kernels take, got composed: only the"):
        operator(input, weight, None, None, None, *geometry, 0, 0, 1, code)
    with pytest.raises(RuntimeError, match="memory without neighbouring pixels"):
        operator(input.mT, weight[:, :, :3, :3], None, None, None, *geometry, 0, 0, 1, code)
