"""fused_mbconv: against the same of torch's operators in float64, and under torch's machinery."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from effkern import _library
from effkern.functional import fused_mbconv
from effkern.ops.mbconv import pixels
from effkern.reference.depthwise_conv2d import ACTIVATIONS
from effkern.testing.blocks import check_block, mapped
from effkern.testing.poison import poisoned_memory

pytestmark = pytest.mark.skipif(not _library.available(), reason=str(_library.load_error()))

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
NAMES = ("input", "expand_weight", "expand_bias", "project_weight", "project_bias", "residual")
WITHOUT = (
    (),
    ("residual",),
    ("project_weight",),
    ("project_weight", "residual"),
    ("expand_bias", "project_bias"),
    ("project_bias", "residual"),
)

all_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
both_layouts = pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
inference = pytest.mark.parametrize("grad", (False, True), ids=("no_grad", "grad"))


@pytest.fixture(autouse=True)
def fresh_memory_full_of_nan():
    with poisoned_memory("cpu"):
        yield


def problem(batch=3, channels=8, hidden=24, out=8, size=(9, 8), kernel=3, stride=1,
            dtype=torch.float32, without=()):  # fmt: skip
    """The arguments by name; those in `without` are None."""
    generator = torch.Generator().manual_seed(5)

    def draw(*shape, scale=1.0):
        return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)

    if "project_weight" in without:
        out, without = hidden, (*without, "project_bias")
    output = [(side + 2 * (kernel // 2) - kernel) // stride + 1 for side in size]
    tensors = {
        "input": draw(batch, channels, *size),
        "expand_weight": draw(hidden, channels, kernel, kernel, scale=channels**-0.5 / kernel),
        "expand_bias": draw(hidden),
        "project_weight": draw(out, hidden, 1, 1, scale=hidden**-0.5),
        "project_bias": draw(out),
        "residual": draw(batch, out, *output),
    }
    return {name: None if name in without else tensors[name] for name in NAMES} | {
        "stride": stride,
        "padding": kernel // 2,
    }


def reference(input, expand_weight, expand_bias, project_weight, project_bias, residual, stride,
              padding, activation="silu"):  # fmt: skip
    y = ACTIVATIONS[activation](F.conv2d(input, expand_weight, expand_bias, stride, padding))
    y = y if project_weight is None else F.conv2d(y, project_weight, project_bias)
    return y if residual is None else y + residual


def check(arguments, layout="contiguous", **keywords):
    check_block(fused_mbconv, reference, arguments, layout, stages=3, **keywords)


@all_dtypes
@both_layouts
@inference
@pytest.mark.parametrize("kernel, stride", ((3, 1), (3, 2), (5, 1), (5, 2)))
def test_results(kernel, stride, grad, layout, dtype):
    arguments = problem(kernel=kernel, stride=stride, dtype=dtype)
    arguments["expand_weight"].requires_grad_(grad)
    check(arguments, layout)


@all_dtypes
@pytest.mark.parametrize("without", ((), ("project_weight", "residual")), ids=str)
@pytest.mark.parametrize(
    "sizes",
    (
        {"channels": 13, "hidden": 40, "out": 3, "size": (17, 23), "stride": 2},
        {"channels": 5, "hidden": 70, "out": 35, "size": (31, 30), "kernel": 7, "stride": 3},
        {"channels": 4, "hidden": 16, "out": 17, "size": (1, 40), "kernel": 3},
        {"channels": 24, "hidden": 96, "out": 48, "size": (41, 1), "kernel": 5, "stride": 2},
        {"channels": 9, "hidden": 33, "out": 8, "size": (12, 13), "kernel": 1},
        {"batch": 1, "channels": 8, "hidden": 32, "out": 8, "size": (70, 71), "stride": 2},
    ),
    ids=str,
)
def test_dense_convolution_of_other_sizes(sizes, without, dtype):
    """Rows, tiles and panels that are full and not, one channel of a vector and several vectors."""
    check(problem(dtype=dtype, without=without, **sizes), "channels_last")


@pytest.mark.parametrize("padding", (((4, 0), (0, 5)), ((0, 3), (6, 6)), 4))
def test_padding_as_wide_as_the_kernel(padding):
    """Rows and columns of the output that meet nothing of the image."""
    arguments = problem(size=(6, 7), without=("residual",)) | {"stride": 2}
    (top, bottom), (left, right) = padding if isinstance(padding, tuple) else ((padding,) * 2,) * 2
    padded = {"input": F.pad(arguments["input"], (left, right, top, bottom)), "padding": 0}
    wanted = reference(**(arguments | padded))
    actual = fused_mbconv(**(arguments | {"padding": padding}))
    torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-5)


def test_numbers_outside_the_image_are_zeros_beside_infinities():
    arguments = problem(stride=2, without=("residual",))
    arguments["input"][:, :, 4, 4] = float("inf")
    actual, wanted = fused_mbconv(**arguments), reference(**arguments)
    assert torch.equal(actual.isfinite(), wanted.isfinite())


@both_layouts
@inference
@pytest.mark.parametrize("without", WITHOUT, ids=str)
def test_without(without, grad, layout):
    arguments = problem(without=without)
    arguments["expand_weight"].requires_grad_(grad)
    check(arguments, layout)


@inference
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name, grad):
    arguments = problem()
    arguments["expand_weight"].requires_grad_(grad)
    check(arguments, activation=name)


@both_layouts
@pytest.mark.parametrize("without", WITHOUT, ids=str)
def test_several_chunks_of_images(monkeypatch, without, layout):
    """The last one is shorter."""
    monkeypatch.setattr(pixels, "CHUNK_BYTES", 2 * 24 * 9 * 8 * 4)
    check(problem(batch=5, without=without), layout)


@pytest.mark.parametrize("layout", ("transposed", "sliced"))
def test_strides(layout):
    check(problem(), layout)


@inference
def test_padding_of_each_side(grad):
    arguments = problem(stride=2, without=("residual",))
    arguments["expand_weight"].requires_grad_(grad)
    padded = {"input": F.pad(arguments["input"], (0, 1, 0, 1)), "padding": 0}
    wanted = reference(**(arguments | padded))
    actual = fused_mbconv(**(arguments | {"padding": ((0, 1), (0, 1))}))
    torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-5)


def test_unbatched_and_empty():
    arguments = problem()
    wanted = fused_mbconv(**arguments)
    one = {name: arguments[name][1] for name in ("input", "residual")}
    torch.testing.assert_close(fused_mbconv(**(arguments | one)), wanted[1])
    empty = {name: arguments[name][:0] for name in ("input", "residual")}
    assert fused_mbconv(**(arguments | empty)).shape == (0, *wanted.shape[1:])


def test_gradcheck():
    arguments = problem(1, 2, 3, 2, (3, 4), dtype=torch.float64)
    leaves = [arguments[name].requires_grad_() for name in NAMES]

    def function(*values):
        return fused_mbconv(**(arguments | dict(zip(NAMES, values, strict=True))))

    assert torch.autograd.gradcheck(function, leaves)


@pytest.mark.parametrize("memory_format", (torch.contiguous_format, torch.channels_last), ids=str)
def test_vmap(memory_format):
    arguments = problem()
    images = arguments["input"].contiguous(memory_format=memory_format)
    residual = arguments.pop("residual")

    def one(image, added):
        return fused_mbconv(**arguments | {"input": image[None], "residual": added[None]})[0]

    with torch.no_grad():
        wanted = reference(**arguments | {"input": images, "residual": residual})
    torch.testing.assert_close(torch.vmap(one)(images, residual), wanted, rtol=1e-4, atol=1e-5)


def test_compile():
    arguments = problem()
    arguments["expand_weight"].requires_grad_()
    compiled = torch.compile(fused_mbconv, backend="eager", fullgraph=True, dynamic=True)
    torch.testing.assert_close(compiled(**arguments), reference(**arguments), rtol=1e-4, atol=1e-4)


def test_other_backends_are_composed(backend):
    """Where gradients are wanted, also backend "cuda" is."""
    arguments = mapped(lambda t: t.to(backend.device), problem(stride=2))
    arguments["expand_bias"].requires_grad_()
    wanted = reference(**arguments)
    torch.testing.assert_close(fused_mbconv(**arguments), wanted, rtol=1e-4, atol=1e-4)


# Of a GPU's tiles: more than one, channels that fill none, several products and passes.
KERNEL_CASES = {
    "stride 2": {"channels": 24, "hidden": 96, "out": 48, "size": (15, 13), "stride": 2},
    "5x5 relu": {"kernel": 5, "hidden": 40},
    "odd gelu": {"channels": 3, "hidden": 21, "out": 7, "size": (5, 4)},
    "passes relu6": {"batch": 1, "channels": 16, "hidden": 320, "out": 70, "size": (3, 5)},
    "5x5 stride 2": {"kernel": 5, "stride": 2, "without": ("expand_bias", "residual")},
    "expand ratio 1 gelu_tanh": {"hidden": 24, "without": ("project_weight",)},
    "no residual hardswish": {"out": 16, "without": ("residual",)},
    "no biases": {"without": ("expand_bias", "project_bias")},
}


@pytest.mark.parametrize("dtype", (DTYPES[0], *DTYPES[2:]), ids=lambda dtype: str(dtype)[6:])
@both_layouts
@pytest.mark.parametrize("name", KERNEL_CASES)
def test_same_as_composed(backend, name, layout, dtype):
    if backend.name.startswith("cuda"):
        pytest.skip("its kernel takes fewer calls: test_fused_mbconv_cuda.py")
    arguments = problem(dtype=dtype, **KERNEL_CASES[name])
    last = name.split()[-1]
    check(
        mapped(lambda t: t.to(backend.device), arguments),
        layout,
        activation=last if last in ACTIVATIONS else "silu",
    )


@pytest.mark.parametrize(
    "change, error, words",
    (
        ({"input": 3}, TypeError, "input: wanted a Tensor, got int"),
        ({"input": torch.zeros(9, 8)}, RuntimeError, r"input: wanted \(C, H, W\)"),
        ({"expand_weight": None}, TypeError, "expand_weight: wanted a Tensor, got NoneType"),
        ({"expand_weight": torch.zeros(24, 1, 3, 3)}, RuntimeError, r"expand_weight: wanted \(E,"),
        ({"expand_weight": torch.zeros(24, 8)}, RuntimeError, "expand_weight: wanted"),
        ({"expand_bias": torch.zeros(8)}, RuntimeError, r"expand_bias: wanted shape \(24,\)"),
        ({"project_weight": torch.zeros(8, 9)}, RuntimeError, r"project_weight: wanted \(rows, 24"),
        ({"project_weight": None}, RuntimeError, "project_bias: wanted with project_weight"),
        ({"project_bias": torch.zeros(8).half()}, RuntimeError, "project_bias: wanted torch.float"),
        ({"residual": torch.zeros(3, 8, 8, 8)}, RuntimeError, r"residual: wanted shape \(3, 8, 9"),
        ({"residual": torch.zeros(1, device="meta")}, RuntimeError, "residual: wanted device cpu"),
        ({"padding": -1}, RuntimeError, "padding: wanted values >= 0"),
        ({"stride": 0}, RuntimeError, "stride: wanted values >= 1"),
        ({"activation": "mish"}, ValueError, "activation: wanted one of"),
    ),
)
def test_bad_input(change, error, words):
    with pytest.raises(error, match=rf"^effkern\.fused_mbconv: {words}"):
        fused_mbconv(**(problem() | change))


@pytest.mark.parametrize("threads", (1, 2, 3))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=lambda dtype: str(dtype)[6:])
def test_winograd_with_remainders_of_every_kind(dtype, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for channels, hidden, out, size in ((9, 37, 13, (31, 18)), (24, 24, 24, (1, 40))):
            for without in ((), ("project_weight",)):
                arguments = problem(2, channels, hidden, out, size, dtype=dtype, without=without)
                with torch.no_grad():
                    check(arguments, "channels_last")
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("sides", ((0, 0, 0, 0), (2, 0, 0, 3), (1, 2, 3, 0)))
def test_winograd_with_other_paddings(sides):
    top, bottom, left, right = sides
    arguments = problem(1, 8, 16, 8, (6, 7)) | {"residual": None}
    arguments.pop("padding")
    padded = F.pad(arguments["input"], (left, right, top, bottom))
    with torch.no_grad():
        y = fused_mbconv(**arguments, padding=((top, bottom), (left, right)))
        wanted = reference(**arguments | {"input": padded}, padding=0)
    torch.testing.assert_close(y, wanted, rtol=1e-4, atol=1e-4)
