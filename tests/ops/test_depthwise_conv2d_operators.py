"""torch.ops.effkern.depthwise_conv2d*: schemas, arguments, fakes, autograd registrations."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from effkern import _library
from effkern.ops.depthwise_conv2d import ACTIVATIONS
from effkern.ops.depthwise_conv2d.operators import BY_BACKEND, CARRIERS
from effkern.registry import BACKENDS
from effkern.testing.depthwise_conv2d import expected_gradients, expected_output, without_kinks
from effkern.testing.problems import DepthwiseConv2dCase as Case

pytestmark = pytest.mark.skipif(not _library.available(), reason=str(_library.load_error()))

FORWARD = "depthwise_conv2d"
BACKWARD = "depthwise_conv2d_backward"
ACTIVATION_BACKWARD = "depthwise_conv2d_activation_backward"
OPERATORS = (FORWARD, BACKWARD, ACTIVATION_BACKWARD)
# They have test files of their own; the emulated library has the first, too.
TESTED_ELSEWHERE = (
    "depthwise_conv2d_fused",
    "depthwise_conv2d_layer_norm",
    "depthwise_conv2d_layer_norm_backward",
)
# Of the eager path, without public twins.
PACKED = ("depthwise_conv2d_packed", "depthwise_conv2d_backward_packed")
# Of CUDA, and of the emulated library; tests/ops/test_depthwise_conv2d_layer_norm_cuda.py.
CUDA_ONLY = "depthwise_conv2d_layer_norm_forward"

# Every integer differs from every other, so that no two of them can be mistaken for each other.
DISTINCT = Case(
    batch=2,
    channels=3,
    height=23,
    width=29,
    kernel=(3, 4),
    multiplier=2,
    stride=(2, 3),
    padding=((4, 5), (6, 7)),
    dilation=(1, 2),
)
CHANGES = {
    "stride_h": {"stride": (3, 3)},
    "stride_w": {"stride": (2, 1)},
    "pad_top": {"padding": ((2, 5), (6, 7))},
    "pad_bottom": {"padding": ((4, 8), (6, 7))},
    "pad_left": {"padding": ((4, 5), (3, 7))},
    "pad_right": {"padding": ((4, 5), (6, 11))},
    "dilation_h": {"dilation": (3, 2)},
    "dilation_w": {"dilation": (1, 4)},
}
twins = pytest.mark.parametrize("prefix", ("", "_"), ids=("public", "lean"))


def operator(name, carrier=CARRIERS[0]):
    return getattr(getattr(torch.ops, carrier.namespace), name + carrier.suffix).default


def operator_of(backend, name):
    return operator(name, BY_BACKEND[backend.code])


def changed(change):
    fields = {name: getattr(DISTINCT, name) for name in Case.__dataclass_fields__}
    return Case(**(fields | change))


def test_every_operator_is_tested():
    registered = {
        name
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("effkern") and "depthwise_conv2d" in name
    }
    assert registered == {
        f"{carrier.namespace}::{prefix}{name}{carrier.suffix}"
        for carrier, prefix, name in product(CARRIERS, ("", "_"), OPERATORS)
    } | {f"effkern::{prefix}{name}" for prefix in ("", "_") for name in TESTED_ELSEWHERE} | {
        f"effkern::_{name}" for name in PACKED
    } | {f"effkern::{CUDA_ONLY}"} | {
        f"effkern_emulated::{name}"
        for name in (TESTED_ELSEWHERE[0], f"_{TESTED_ELSEWHERE[0]}", CUDA_ONLY)
        if _library.emulation_available()
    }  # fmt: skip


@pytest.mark.parametrize("carrier", CARRIERS, ids=lambda c: c.namespace + c.suffix)
@pytest.mark.parametrize("prefix", ("", "_"), ids=("public", "lean"))
@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_has_the_same_schema(name, prefix, carrier):
    wanted = str(operator(name)._schema)
    same = f"{carrier.namespace}::{prefix}{name}{carrier.suffix}("
    assert str(operator(prefix + name, carrier)._schema) == wanted.replace(
        f"effkern::{name}(", same
    )


@pytest.mark.parametrize("name", OPERATORS)
def test_integers_have_distinct_names_in_the_documented_order(name):
    arguments = [a.name for a in operator(name)._schema.arguments]
    start = arguments.index("stride_h")
    assert arguments[start : start + 8] == list(CHANGES)
    assert arguments[-1] == "backend"


# The stable ABI never compares a kernel's parameters with its schema: an argument that is read as
# another one, or as another type, shows only in the results.
@twins
@pytest.mark.parametrize("change", list(CHANGES.values()), ids=list(CHANGES))
def test_each_integer(backend, change, prefix):
    case = changed(change)
    input, weight, bias, grad_output = case.tensors(torch.float64, backend.device)
    args = case.geometry
    output = operator_of(backend, prefix + FORWARD)(input, weight, bias, *args, 0, backend.code)
    expected_output(case, input, weight, bias).check(output, "output")

    grads = operator_of(backend, prefix + BACKWARD)(
        grad_output, input, weight, *args, True, True, True, backend.code
    )
    expected = expected_gradients(case, grad_output, input, weight, bias)
    for name, got, wanted in zip(("input", "weight", "bias"), grads, expected, strict=True):
        wanted.check(got, f"grad_{name}")


@twins
@pytest.mark.parametrize("activation", list(ACTIVATIONS), ids=str)
@pytest.mark.parametrize("bias", (False, True), ids=("no_bias", "bias"))
def test_activation_argument(backend, activation, bias, prefix):
    case = changed({"bias": bias})
    input, weight, bias, grad_output = case.tensors(torch.float64, backend.device)
    args = (*case.geometry, ACTIVATIONS[activation], backend.code)
    output = operator_of(backend, prefix + FORWARD)(input, weight, bias, *args)
    expected_output(case, input, weight, bias, activation).check(output, "output")

    grad_output = without_kinks(case, grad_output, input, weight, bias, activation)
    actual = operator_of(backend, prefix + ACTIVATION_BACKWARD)(
        grad_output, input, weight, bias, *args
    )
    # The gradient with respect to the bias, before it is summed.
    identity = Case(*case.output_shape, kernel=(1, 1), padding=0, bias=False)
    pre = operator_of(backend, prefix + FORWARD)(
        input, weight, bias, *case.geometry, 0, backend.code
    )
    one = pre.new_ones(identity.weight_shape)
    wanted = expected_gradients(identity, grad_output, pre, one, None, activation)[0]
    assert actual.shape == grad_output.shape
    torch.testing.assert_close(actual, wanted.torch_result, rtol=1e-12, atol=1e-12)


@twins
@pytest.mark.parametrize("needs", list(product((False, True), repeat=3)), ids=str)
def test_masks_of_backward(backend, needs, prefix):
    input, weight, bias, grad_output = DISTINCT.tensors(torch.float32, backend.device)
    grads = operator_of(backend, prefix + BACKWARD)(
        grad_output, input, weight, *DISTINCT.geometry, *needs, backend.code
    )
    expected = expected_gradients(DISTINCT, grad_output, input, weight, bias)
    names = ("input", "weight", "bias")
    for name, need, got, wanted in zip(names, needs, grads, expected, strict=True):
        if need:
            wanted.check(got, f"grad_{name}")
        else:
            assert got.shape == (0,) and got.dtype == input.dtype


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck(backend, name, dtype, layout):
    input, weight, bias, grad_output = DISTINCT.tensors(dtype, backend.device, layout)
    leaves = [t.requires_grad_(dtype == torch.float32) for t in (input, weight, bias)]
    geometry = DISTINCT.geometry
    arguments = {
        FORWARD: [(*leaves, *geometry, code, backend.code) for code in (0, 1, 4)]
        + [(*leaves[:2], None, *geometry, 3, backend.code)],
        BACKWARD: [
            (grad_output, *leaves[:2], *geometry, *needs, backend.code)
            for needs in ((True, True, True), (False, True, False), (True, False, True))
        ],
        ACTIVATION_BACKWARD: [(grad_output, *leaves, *geometry, 3, backend.code)],
    }
    for args in arguments[name][: 1 if backend.slow else None]:
        torch.library.opcheck(operator_of(backend, name), args)
        lean_checks = ("test_schema", "test_faketensor")
        detached = [a.detach() if isinstance(a, torch.Tensor) else a for a in args]
        torch.library.opcheck(operator_of(backend, "_" + name), detached, test_utils=lean_checks)


@pytest.mark.parametrize("weight_layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("layout", ("contiguous", "channels_last", "transposed", "sliced"))
@pytest.mark.parametrize("name", OPERATORS)
def test_fakes_agree_with_kernels(backend, name, layout, weight_layout):
    input, _, bias, grad_output = DISTINCT.tensors(torch.float32, backend.device, layout)
    weight = DISTINCT.tensors(torch.float32, backend.device, weight_layout)[1]
    geometry = DISTINCT.geometry
    args = {
        FORWARD: (input, weight, bias, *geometry, 0, backend.code),
        BACKWARD: (grad_output, input, weight, *geometry, True, True, True, backend.code),
        ACTIVATION_BACKWARD: (grad_output, input, weight, bias, *geometry, 3, backend.code),
    }[name]
    torch.library.opcheck(operator_of(backend, name), args, test_utils=("test_faketensor",))


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_auto_takes_its_own_kernels_on_cpu(memory_format):
    """No measured layer is faster in torch: bitwise what backend "cpu" gives."""
    input = torch.randn(1, 96, 28, 28).to(memory_format=memory_format)
    weight = torch.randn(96, 1, 3, 3)
    geometry = (2, 2, 1, 1, 1, 1, 1, 1)
    output = torch.conv2d(input, weight, None, 2, 1, 1, 96)
    auto, cpu = (
        torch.ops.effkern.depthwise_conv2d_backward(
            torch.ones_like(output), input, weight, *geometry, True, True, True, BACKENDS[name]
        )
        for name in ("auto", "cpu")
    )
    for mine, forced in zip(auto, cpu, strict=True):
        assert torch.equal(mine, forced)
    assert auto[0].stride() == input.stride()
