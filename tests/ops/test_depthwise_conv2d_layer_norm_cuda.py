"""depthwise_conv2d_layer_norm's CUDA kernel, emulated or real: results, which calls it takes."""

from __future__ import annotations

import pytest
import torch

import effkern
from effkern.functional import depthwise_conv2d_layer_norm
from effkern.ops.depthwise_conv2d import cuda_inference
from effkern.ops.depthwise_conv2d_layer_norm import compose
from effkern.ops.depthwise_conv2d_layer_norm.cuda_backend import plan
from effkern.reference.depthwise_conv2d_layer_norm import depthwise_conv2d_layer_norm as reference
from effkern.testing.depthwise_conv2d_layer_norm import Exact, norm_tensors
from effkern.testing.poison import SentinelBuffer, poisoned_memory
from effkern.testing.problems import DepthwiseConv2dCase as Case
from effkern.testing.problems import with_layout

DEVICES = {"cuda_emulated": "cpu", "cuda": "cuda"}
PRESENT = [name for name in DEVICES if effkern.backends()[name] is True]
if not PRESENT:
    pytest.skip(str(effkern.backends()["cuda_emulated"]), allow_module_level=True)

EPS = 1e-6
FLOAT, HALF, BFLOAT = torch.float32, torch.float16, torch.bfloat16
DTYPES = (FLOAT, HALF, BFLOAT)
SEVEN = {"kernel": (7, 7), "padding": 3}
CASES = {
    # Fewer threads than a group has, several strips of a block, a last tile of fewer rows.
    "fewest channels": Case(channels=8, height=10, width=9, **SEVEN),
    "groups of 8": Case(batch=1, channels=96, height=5, width=5, **SEVEN),
    "groups of 16": Case(channels=64, height=4, width=4, kernel=(5, 5), padding=2, bias=False),
    "groups of 32": Case(batch=3, channels=128, height=2, width=3, **SEVEN),
    "threads without channels": Case(channels=40, height=3, width=13, kernel=(5, 5), padding=2),
    "several groups": Case(batch=1, channels=328, height=2, width=2),
    "most channels": Case(batch=1, channels=1024, height=1, width=2),
    "borders that differ": Case(
        channels=16, height=6, width=7, kernel=(5, 5), padding=((0, 3), (4, 1))
    ),
    "no padding": Case(channels=24, height=9, width=8, kernel=(3, 3), padding="valid"),
    "rows beside the image": Case(batch=1, channels=16, height=2, width=3, padding=4),
}


@pytest.fixture(params=PRESENT)
def device(request):
    with poisoned_memory(DEVICES[request.param]), effkern.backend(request.param):
        yield DEVICES[request.param]


@pytest.fixture
def calls(monkeypatch, device):
    """Of the kernel's operator, one entry for each."""
    made = []
    found = cuda_inference.operators

    def operators():
        made.append(1)
        return found()

    monkeypatch.setattr(cuda_inference, "operators", operators)
    return made


def problem(case, dtype):
    """(input, weight, bias or None, norm_weight, norm_bias), grad_output; channels_last."""
    input, weight, bias, grad_output = case.tensors(dtype, "cpu", "channels_last")
    return (input, weight, bias, *norm_tensors(case, FLOAT)), grad_output


def on(device, tensors):
    return [None if t is None else t.to(device) for t in tensors]


def check(device, case, tensors, eps=EPS):
    actual = depthwise_conv2d_layer_norm(*on(device, tensors), eps, padding=case.padding)
    assert actual.is_contiguous(memory_format=torch.channels_last)
    Exact(case, tensors, torch.zeros(case.output_shape), eps).check_output(actual.cpu())


def by_operator(device, tensors, pads, *, eps=EPS, save=True):
    operator = cuda_inference.operators().depthwise_conv2d_layer_norm_forward
    return operator(*on(device, tensors), eps, *pads, save, effkern.registry.selected)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_results(device, calls, case, dtype):
    check(device, case, problem(case, dtype)[0])
    assert len(calls) == 1


@pytest.mark.parametrize("dtype", (HALF, BFLOAT), ids=str)
def test_weights_of_16_bits(device, calls, dtype):
    """Of more channels than fit shared memory in float32."""
    case = Case(batch=1, channels=520, height=1, width=2, **SEVEN)
    assert plan(str(dtype)[6:], (1, 520, 1, 2), (7, 7), (3,) * 4).narrow_weights
    check(device, case, problem(case, dtype)[0])
    assert len(calls) == 1


@pytest.mark.parametrize("given", ((True, False), (False, True), (False, False)))
def test_norm_without_weight_or_bias(device, given):
    case = Case(channels=24, height=3, width=5)
    (*convolution, weight, bias), _ = problem(case, BFLOAT)
    norm = [t if there else None for t, there in zip((weight, bias), given, strict=True)]
    check(device, case, (*convolution, *norm))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("eps", (0.5, 1e-12))
def test_eps_and_a_large_mean(device, eps, dtype):
    """A mean that is far from zero: the variance must not come out of a difference of squares."""
    case = Case(channels=48, height=4, width=5, **SEVEN)
    (input, weight, bias, *norm), _ = problem(case, dtype)
    check(device, case, (input + 300, weight / 1000 + 1 / 49, bias, *norm), eps)


@pytest.mark.parametrize("dtype", (FLOAT, BFLOAT), ids=str)
def test_channels_that_are_all_equal(device, dtype):
    input = with_layout(torch.full((2, 24, 5, 6), 3.0, dtype=dtype), "channels_last")
    norm = torch.full((24,), 2.0), torch.arange(24.0)
    tensors = on(device, (input, torch.ones(24, 1, 3, 3, dtype=dtype), None, *norm))
    output = depthwise_conv2d_layer_norm(*tensors, padding=1).cpu()
    assert torch.equal(output, norm[1].to(dtype)[:, None, None].expand_as(output))


def test_nan_stays_in_the_pixels_that_see_it(device):
    tensors, _ = problem(Case(channels=16, height=9, width=10), HALF)
    tensors[0][1, 5, 4, 6] = torch.nan
    output = depthwise_conv2d_layer_norm(*on(device, tensors), padding=1).cpu()
    bad = torch.zeros(2, 9, 10, dtype=torch.bool)
    bad[1, 3:6, 5:8] = True
    assert torch.equal(output.isnan(), bad[:, None].expand_as(output))


@pytest.mark.parametrize("dtype", (FLOAT, BFLOAT), ids=str)
def test_statistics(device, dtype):
    """Saved or not, the output has the same bits."""
    case = Case(channels=40, height=6, width=5, kernel=(5, 5), padding=((1, 2), (0, 3)))
    (input, weight, bias, *norm), _ = problem(case, dtype)
    output, mean, rstd = by_operator(device, (input, weight, bias, *norm), (1, 2, 0, 3), eps=0.25)
    padded = torch.nn.functional.pad(input.double(), (0, 3, 1, 2))
    z = torch.conv2d(padded, weight.double(), bias.double(), groups=40)
    variance = z.var(1, correction=0)
    torch.testing.assert_close(mean.cpu().double(), z.mean(1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rstd.cpu().double(), (variance + 0.25) ** -0.5, rtol=1e-5, atol=0)
    alone = by_operator(device, (input, weight, bias, *norm), (1, 2, 0, 3), eps=0.25, save=False)
    assert torch.equal(alone[0], output) and alone[1].numel() == alone[2].numel() == 0


def test_copies_of_views(device, calls):
    """Tensors that begin between two vectors."""
    case = Case(channels=16, height=5, width=6)
    tensors, _ = problem(case, BFLOAT)
    wanted = depthwise_conv2d_layer_norm(*on(device, tensors), padding=1)
    buffers = [SentinelBuffer(t, 1) for t in tensors[1:]]
    views = [buffer.view for buffer in buffers]
    actual = depthwise_conv2d_layer_norm(*on(device, (tensors[0], *views)), padding=1)
    assert torch.equal(actual, wanted) and len(calls) == 2
    for buffer in buffers:
        buffer.assert_unchanged()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients(device, calls, dtype):
    case = Case(channels=16, height=5, width=6, **SEVEN)
    tensors, grad_output = problem(case, dtype)
    leaves = [t.requires_grad_() for t in on(device, tensors)]
    output = depthwise_conv2d_layer_norm(*leaves, EPS, padding=3)
    assert len(calls) == 1
    actual = torch.autograd.grad(output, leaves, grad_output.to(device))
    if dtype == FLOAT:
        exact = Exact(case, tensors, grad_output, EPS)
        exact.check_output(output.detach().cpu())
        exact.check_gradients(tuple(t.cpu() for t in actual))
        return
    # As accurate as the composition, which rounds the convolution's result on its way, too.
    (scale, shift), pads = leaves[3:], (3,) * 4
    composed = compose(*leaves[:3], scale, shift, EPS, pads)
    others = torch.autograd.grad(composed, leaves, grad_output.to(device))
    wide = [t.detach().cpu().double().requires_grad_() for t in tensors]
    wanted = torch.autograd.grad(reference(*wide, EPS, padding=3), wide, grad_output.double())
    for got, other, want in zip(actual, others, wanted, strict=True):
        assert got.dtype == other.dtype
        errors = [(t.cpu().double() - want).norm() / want.norm() for t in (got, other)]
        assert errors[0] <= 2 * errors[1] + torch.finfo(dtype).eps / 2


def test_gradients_of_gradients(device):
    case = Case(batch=1, channels=8, height=4, width=5)
    tensors, grad_output = problem(case, FLOAT)
    found = []
    for function in (
        lambda *t: depthwise_conv2d_layer_norm(*t, 0.1, padding=1),
        lambda *t: compose(*t, 0.1, (1,) * 4),
    ):
        leaves = [t.detach().requires_grad_() for t in on(device, tensors)]
        gradients = torch.autograd.grad(
            function(*leaves), leaves, grad_output.to(device), create_graph=True
        )
        total = sum(gradient.square().sum() for gradient in gradients)
        found.append(torch.autograd.grad(total, leaves[:4]))
    for actual, wanted in zip(*found, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-3)


def test_composed(device, calls):
    """What the kernel does not take is no error."""
    for case, dtype, layout in (
        (Case(channels=16, height=5, width=6), FLOAT, "contiguous"),
        (Case(channels=16, height=5, width=6), torch.float64, "channels_last"),
        (Case(channels=10, height=5, width=6), BFLOAT, "channels_last"),
        (Case(channels=16, height=5, width=6, kernel=(3, 5), padding=1), FLOAT, "channels_last"),
        (Case(channels=8, height=5, width=6, multiplier=2), FLOAT, "channels_last"),
        (Case(batch=0, channels=16), FLOAT, "channels_last"),
    ):
        input, weight, bias, _ = case.tensors(dtype, device, layout)
        output = depthwise_conv2d_layer_norm(input, weight, bias, None, None, padding=1)
        wanted = reference(input, weight, bias, None, None, EPS, padding=1)
        torch.testing.assert_close(output, wanted, rtol=0.02, atol=0.02)
    assert not calls


def test_transforms_and_autocast_are_composed(device, calls):
    tensors = on(device, problem(Case(channels=16, height=5, width=6), FLOAT)[0])
    with torch.autocast(device, BFLOAT):
        assert depthwise_conv2d_layer_norm(*tensors, padding=1).dtype == BFLOAT

    def function(input):
        return depthwise_conv2d_layer_norm(input, *tensors[1:], padding=1)

    _, along = torch.func.jvp(function, (tensors[0],), (torch.ones_like(tensors[0]),))
    assert along.isfinite().all()
    compiled = torch.compile(function, backend="eager", fullgraph=True)
    wanted = compiled(tensors[0])
    assert not calls
    torch.testing.assert_close(function(tensors[0]), wanted)
    assert len(calls) == 1


def test_mistakes_are_the_convolutions_to_refuse(device):
    input, weight, bias, *norm = on(device, problem(Case(channels=16, height=5, width=6), FLOAT)[0])
    for tensors, words in (
        ((input, weight[:8], bias[:8], None, None), "weight: wanted"),
        ((input, weight.double(), bias, *norm), "weight: wanted float32"),
        ((input, weight, bias[:8], *norm), r"bias: wanted shape \(16,\), got \(8,\)"),
        ((input[:, :, :2], weight, bias, *norm), "weight: wanted a kernel that fits"),
    ):
        with pytest.raises(RuntimeError, match=words):
            depthwise_conv2d_layer_norm(*tensors, padding=0)


def test_bad_arguments_of_the_operator(device):
    tensors = problem(Case(channels=16, height=5, width=6), BFLOAT)[0]
    pads = (1,) * 4
    for position, value, words in (
        (0, tensors[0].contiguous(), "input: wanted dense channels_last memory"),
        (0, tensors[0][0], r"input: wanted \(N, C, H, W\)"),
        (0, tensors[0].long(), "input: wanted float16 or bfloat16, got int64"),
        (0, tensors[0].double(), "input: wanted a call that the CUDA kernel takes, got a dtype"),
        (1, tensors[1][:8], r"weight: wanted a contiguous tensor of \(16, 1, kH, kW\)"),
        (1, tensors[1].half(), "weight: wanted bfloat16 as input is, got float16"),
        (2, tensors[2][1:], "bias: wanted a contiguous tensor of 1 x 16"),
        (3, tensors[3].double(), "norm_weight: wanted float32, got float64"),
        (4, tensors[4][:, None], "norm_bias: wanted a contiguous tensor of 16 numbers"),
    ):
        given = [value if i == position else t for i, t in enumerate(tensors)]
        with pytest.raises(RuntimeError, match=f"^effkern.depthwise_conv2d_layer_norm: {words}"):
            by_operator(device, given, pads)
    operator = cuda_inference.operators().depthwise_conv2d_layer_norm_forward
    with pytest.raises(RuntimeError, match="backend: wanted"):
        operator(*on(device, tensors), EPS, *pads, False, 1)


@pytest.mark.parametrize(
    "change, words",
    (
        ({"dtype": "float64"}, "a dtype other than float32, float16 and bfloat16"),
        ({"kernel": (3, 5)}, "a kernel other than 3x3, 5x5 and 7x7"),
        ({"kernel": (9, 9)}, "a kernel other than 3x3, 5x5 and 7x7"),
        ({"input": (2, 14, 9, 9)}, "channels that are no multiple of 4"),
        ({"input": (2, 12, 9, 9), "kernel": (3, 3)}, "channels that are no multiple of 8"),
        ({"input": (0, 16, 9, 9)}, "an empty tensor or sizes that an int does not hold"),
        ({"input": (2, 16, 3, 3), "pads": (1,) * 4}, "an empty tensor or sizes that an int"),
        ({"input": (1 << 20, 16, 64, 64)}, "an empty tensor or sizes that an int"),
        ({"pads": (-1, 3, 3, 3)}, "a padding below zero"),
        ({"input": (2, 1028, 9, 9)}, "more channels than the threads of a block own"),
        ({"input": (2, 1024, 9, 9), "dtype": "float32"}, "weights that shared memory does not"),
    ),
    ids=str,
)
def test_refused(change, words):
    sizes = {"dtype": "float16", "input": (2, 16, 9, 9), "kernel": (7, 7), "pads": (3,) * 4}
    assert plan(**sizes).refusal is None
    assert words in plan(**(sizes | change)).refusal


def test_plan():
    """Full blocks, tiles of a wave where an image is large, memory that every device has."""
    pads, seven = (3,) * 4, (7, 7)
    first = plan("bfloat16", (128, 96, 56, 56), seven, pads)
    assert (first.channels, first.pixels, first.lanes, first.group) == (4, 4, 24, 8)
    assert (first.slots, first.threads, first.strips) == (5, 128, 14)
    assert first.rows * first.row_tiles >= 56 and first.row_tiles > 1
    assert first.grid == -(-128 * 14 * first.row_tiles // 5)
    assert first.bytes == 2 * (2 * 128 * 96 * 56 * 56 + 96 * 49)
    assert first.flops == 2 * 49 * 128 * 96 * 56 * 56
    last = plan("bfloat16", (128, 768, 7, 7), seven, pads)
    assert (last.lanes, last.group, last.slots, last.threads) == (192, 32, 1, 192)
    assert (last.rows, last.row_tiles, last.narrow_weights) == (7, 1, True)
    widest = plan("bfloat16", (1, 1024, 7, 7), seven, pads)
    assert (widest.threads, widest.rows) == (256, 4)
    eight = plan("float16", (1, 2048, 7, 7), (3, 3), (1,) * 4)
    assert (eight.channels, eight.pixels, eight.threads) == (8, 2, 256)
    assert max(p.shared_memory for p in (first, last, widest, eight)) <= 99 << 10


def test_explained(device):
    tensors = on(device, problem(Case(channels=16, height=5, width=6), HALF)[0])
    explained = effkern.explain(depthwise_conv2d_layer_norm, *tensors, padding=1)
    forward = explained.plans["forward"]
    assert forward.backend in PRESENT and forward.kernel == "depthwise_conv2d_layer_norm_kernel"
    assert "one pass" in forward.reason and forward.grid > 0 and str(explained)
    for changed, words in (
        (tensors[0].contiguous(), "composed: an input that is not channels_last"),
        (tensors[0].double(), "composed: a dtype other than"),
    ):
        others = [t.to(changed.dtype) for t in tensors[1:3]]
        forward = effkern.explain(
            depthwise_conv2d_layer_norm, changed, *others, None, None, padding=1
        ).plans["forward"]
        assert words in forward.reason and "native_layer_norm" in forward.kernel
