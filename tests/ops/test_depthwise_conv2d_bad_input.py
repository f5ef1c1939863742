"""Wrong arguments: torch's exception type, a helpful message, nothing written, nothing leaked."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F

import effkern
from effkern import _library
from effkern.functional import depthwise_conv2d
from effkern.testing.memory import heap_growth
from effkern.testing.poison import SentinelBuffer
from effkern.testing.problems import DepthwiseConv2dCase as Case

native = pytest.mark.skipif(not _library.available(), reason=str(_library.load_error()))

GOOD = Case(batch=2, channels=4, height=5, width=6, padding=0)


class Mistake(NamedTuple):
    """A wrong call: what it changes, and (as regular expressions) what the message names."""

    changes: Callable[[dict], dict]
    argument: str
    got: str


def replace(**values):
    return lambda call: values


def convert(name, function):
    return lambda call: {name: function(call[name])}


ones = torch.ones
MISTAKES = {
    "input_1d": Mistake(replace(input=ones(5)), "input", r"\(5,\)"),
    "input_2d": Mistake(replace(input=ones(5, 6)), "input", r"\(5, 6\)"),
    "input_5d": Mistake(replace(input=ones(1, 2, 4, 5, 6)), "input", r"\(1, 2, 4, 5, 6\)"),
    "no_channels": Mistake(replace(input=ones(2, 0, 5, 6)), "input|weight", "0"),
    "channels_3_for_4": Mistake(replace(input=ones(2, 3, 5, 6)), "weight", r"\(4, 1, 3, 3\)"),
    "no_rows": Mistake(replace(input=ones(2, 4, 0, 6)), "input|weight", "0"),
    "no_rows_but_padding": Mistake(replace(input=ones(2, 4, 0, 6), padding=2), "input", "0"),
    "weight_3d": Mistake(replace(weight=ones(4, 3, 3)), "weight", r"\(4, 3, 3\)"),
    "weight_5d": Mistake(replace(weight=ones(1, 4, 1, 3, 3)), "weight", r"\(1, 4, 1, 3, 3\)"),
    "weight_1d": Mistake(replace(weight=ones(4)), "weight", r"\(4,\)"),
    "weight_not_depthwise": Mistake(replace(weight=ones(4, 2, 3, 3)), "weight", r"\(4, 2, 3, 3\)"),
    "weight_no_multiple": Mistake(replace(weight=ones(6, 1, 3, 3)), "weight", r"\(6, 1, 3, 3\)"),
    "weight_no_channels": Mistake(replace(weight=ones(0, 1, 3, 3)), "weight", r"\(0, 1, 3, 3\)"),
    "kernel_no_rows": Mistake(replace(weight=ones(4, 1, 0, 3)), "weight", r"\(4, 1, 0, 3\)"),
    "kernel_too_high": Mistake(replace(weight=ones(4, 1, 6, 3)), "weight", "6"),
    "kernel_too_wide": Mistake(replace(weight=ones(4, 1, 3, 7)), "weight", "7"),
    "dilated_kernel_too_large": Mistake(replace(dilation=3), "weight", "7"),
    "bias_size": Mistake(replace(bias=ones(5)), "bias", r"\(5,\)"),
    "bias_2d": Mistake(replace(bias=ones(4, 1)), "bias", r"\(4, 1\)"),
    "weight_float64": Mistake(convert("weight", torch.Tensor.double), "weight", "float64|double"),
    "weight_bfloat16": Mistake(convert("weight", torch.Tensor.bfloat16), "weight", "bfloat16"),
    "weight_int": Mistake(convert("weight", torch.Tensor.int), "weight", "int"),
    "bias_float64": Mistake(convert("bias", torch.Tensor.double), "bias", "float64|double"),
    "bias_half": Mistake(convert("bias", torch.Tensor.half), "bias", "float16|half"),
    "stride_0": Mistake(replace(stride=0), "stride", "0"),
    "stride_negative": Mistake(replace(stride=(1, -2)), "stride", "-2"),
    "stride_three": Mistake(replace(stride=(1, 2, 3)), "stride", "1, 2, 3"),
    "stride_empty": Mistake(replace(stride=()), "stride", r"\[\]|\(\)"),
    "stride_float": Mistake(replace(stride=1.5), "stride", "float"),
    "stride_bool": Mistake(replace(stride=True), "stride", "bool"),
    "stride_str": Mistake(replace(stride="2"), "stride", "str"),
    "stride_None": Mistake(replace(stride=None), "stride", "NoneType"),
    "stride_2**63": Mistake(replace(stride=2**63), "stride", "9223372036854775808"),
    "dilation_0": Mistake(replace(dilation=(0, 1)), "dilation", "0"),
    "dilation_floats": Mistake(replace(dilation=(1.0, 2.0)), "dilation", "1.0"),
    "dilation_2**62": Mistake(replace(dilation=2**62), "dilation|weight", r"\d"),
    "padding_negative": Mistake(replace(padding=-1), "padding", "-1"),
    "padding_word": Mistake(replace(padding="full"), "padding", "full"),
    "padding_four": Mistake(replace(padding=(1, 2, 3, 4)), "padding", "1, 2, 3, 4"),
    "padding_float": Mistake(replace(padding=0.5), "padding", "float"),
    "padding_None": Mistake(replace(padding=None), "padding", "NoneType"),
    "padding_2**62": Mistake(replace(padding=2**62), "padding|output", r"\d"),
    "padding_2**63": Mistake(replace(padding=2**63), "padding", "9223372036854775808"),
    "same_with_stride": Mistake(replace(padding="same", stride=2), "padding", "2"),
    "input_list": Mistake(replace(input=[1.0]), "input", "list"),
    "input_None": Mistake(replace(input=None), "input", "NoneType"),
    "input_array": Mistake(convert("input", torch.Tensor.numpy), "input", "ndarray"),
    "weight_list": Mistake(replace(weight=[1.0]), "weight", "list"),
    "weight_None": Mistake(replace(weight=None), "weight", "NoneType"),
    "bias_list": Mistake(replace(bias=[1.0]), "bias", "list"),
    "bias_number": Mistake(replace(bias=1.0), "bias", "float"),
}


def good_call(dtype=torch.float32, device="cpu"):
    input, weight, bias, _ = GOOD.tensors(dtype, device)
    return {"input": input, "weight": weight, "bias": bias}


def error_of(function, **call):
    """The exception that a call raises; fails if there is none."""
    try:
        function(**call)
    except Exception as error:
        return error
    pytest.fail(f"no exception for {call}")


def torch_error(call):
    return error_of(F.conv2d, **call, groups=4)


def assert_helpful(error, argument, got):
    """The message names the function, the argument, what was wanted and what was got."""
    message = str(error).replace("\n", " ")
    assert re.search(rf"depthwise_conv2d\w*:.*\b({argument})\b", message, re.I), message
    assert re.search(r"\bwant(s|ed)\b", message), message
    assert re.search(rf"\bgot\b.*({got})", message, re.I), message


@pytest.mark.parametrize("selected", ("auto", "torch", "by_name"))
@pytest.mark.parametrize("mistake", list(MISTAKES.values()), ids=list(MISTAKES))
def test_mistake(backend, mistake, selected):
    call = good_call()
    call |= mistake.changes(call)
    wanted = torch_error(call)
    with effkern.backend(backend.name if selected == "by_name" else selected):
        got = error_of(depthwise_conv2d, **call)
    assert isinstance(got, type(wanted)), f"wanted {wanted!r}, got {got!r}"
    if selected == "torch" or not _library.available():
        # torch's own words will do.
        return
    assert_helpful(got, mistake.argument, mistake.got)


@pytest.mark.parametrize("activation", ("tanh", "RELU", "", 1, 2.0, True, torch.relu), ids=str)
def test_unknown_activation(backend, activation):
    wanted = ValueError if isinstance(activation, str) else TypeError
    with pytest.raises(wanted) as caught:
        depthwise_conv2d(**good_call(), activation=activation)
    got = repr(activation) if isinstance(activation, str) else type(activation).__name__
    assert_helpful(caught.value, "activation", got)


@pytest.mark.parametrize("wrong", ({"groups": 4}, {"foo": 1}, {"bias": None, "weigth": 1}), ids=str)
def test_unknown_argument(wrong):
    with pytest.raises(TypeError, match=f"depthwise_conv2d.*{list(wrong)[-1]}"):
        depthwise_conv2d(**(good_call() | wrong))


@native
@pytest.mark.parametrize(
    "dtype",
    (torch.complex64, torch.int64, torch.int32, torch.uint8, torch.bool, torch.float8_e4m3fn),
    ids=lambda dtype: str(dtype)[6:],
)
def test_other_dtypes(backend, dtype):
    call = {name: tensor.to(dtype) for name, tensor in good_call(device=backend.device).items()}
    with pytest.raises(RuntimeError) as caught:
        depthwise_conv2d(**call)
    assert re.search(rf"depthwise_conv2d: .*{backend.name}.*{dtype}", str(caught.value))

    # "auto" gives what torch gives, be it a result or an error.
    with effkern.backend("auto"):
        try:
            wanted = F.conv2d(**call, groups=4)
        except Exception as error:
            got = error_of(depthwise_conv2d, **call)
            assert type(got) is type(error)
        else:
            torch.testing.assert_close(depthwise_conv2d(**call), wanted)


@native
@pytest.mark.parametrize("names", (("input",), ("weight",), ("bias",), ("input", "weight", "bias")))
def test_meta_tensors(backend, names):
    call = good_call(device=backend.device)
    call |= {name: call[name].to("meta") for name in names}
    with pytest.raises(RuntimeError) as caught:
        depthwise_conv2d(**call)
    assert re.search(rf"depthwise_conv2d: .*{backend.name}.*meta", str(caught.value))
    with effkern.backend("auto"):
        assert depthwise_conv2d(**call).shape == F.conv2d(**call, groups=4).shape


@pytest.mark.parametrize(
    "name", [name for name, ok in effkern.backends().items() if ok is not True]
)
def test_missing_backend(name):
    with effkern.backend(name), pytest.raises(RuntimeError) as caught:
        depthwise_conv2d(**good_call())
    assert_helpful(caught.value, "backend", name)


@native
@pytest.mark.parametrize(
    "shape",
    (
        # More bytes than 63 bits can count.
        (2**29, 4, 2**28, 6),
        (1, 4, 2**30, 2**29),
        # More bytes than there is memory: nothing of it is written before that is known.
        (2**20, 4, 2**20, 6),
        (1, 4, 5, 2**48),
    ),
    ids=str,
)
@pytest.mark.parametrize("pass_", ("forward", "backward"))
def test_sizes_that_overflow(backend, pass_, shape):
    weight = torch.ones(4, 1, 3, 3, device=backend.device)
    huge = torch.zeros(1, device=backend.device).expand(shape)
    code = backend.code
    with pytest.raises(RuntimeError):
        if pass_ == "forward":
            depthwise_conv2d(huge, weight, padding=1)
        else:
            torch.ops.effkern.depthwise_conv2d_backward(
                huge, huge, weight, 1, 1, 1, 1, 1, 1, 1, 1, True, False, False, code
            )


@native
@pytest.mark.parametrize(
    "change",
    (
        {"grad_output": ones(2, 4, 3, 3)},
        {"grad_output": ones(2, 3, 3, 4)},
        {"grad_output": ones(1, 4, 3, 4)},
        {"grad_output": ones(4, 3, 4)},
        {"grad_output": ones(2, 4, 3, 4, dtype=torch.float64)},
        {"input": ones(2, 4, 6, 6)},
        {"weight": ones(8, 1, 3, 3)},
        {"weight": ones(4, 1, 2, 3)},
    ),
    ids=lambda change: "-".join(f"{k}={tuple(v.shape)}{v.dtype}" for k, v in change.items()),
)
@pytest.mark.parametrize("name", ("depthwise_conv2d_backward", "_depthwise_conv2d_backward"))
def test_backward_checks_what_it_is_given(backend, name, change):
    input, weight, _, grad_output = GOOD.tensors(torch.float32, backend.device)
    call = {"grad_output": grad_output, "input": input, "weight": weight} | change
    with pytest.raises(RuntimeError) as caught:
        getattr(torch.ops.effkern, name)(
            *call.values(), *GOOD.geometry, True, True, True, backend.code
        )
    assert_helpful(caught.value, "grad_output|weight", r"\d")


# What a drawn call may put in place of an integer. Nothing in between: an output of gigabytes is no
# mistake that can be seen before it is computed.
INTEGERS = (0, -1, -(2**63), -(2**31), 2**40, 2**62, 2**63 - 1)
SHAPES = ((), (0,), (4,), (3, 3), (1, 1, 1), (4, 1, 0, 3), (0, 1, 3, 3), (2, 4, 0, 0), (5, 1, 9, 9))
WRONG_DTYPES = (torch.float64, torch.float16, torch.int32, torch.complex64, torch.bool)


def wrong_tensor(generator, tensor):
    kind = generator.randrange(4)
    if kind == 0:
        return torch.ones(generator.choice(SHAPES), dtype=tensor.dtype)
    if kind == 1:
        return tensor.to(generator.choice(WRONG_DTYPES))
    if kind == 2:
        return tensor.to("meta")
    return tensor.new_zeros(1).expand(2**40, 2**20, 1, 1)


def operator_calls(generator, code, count):
    """Calls of each operator, with one to three arguments replaced by wrong ones."""
    input, weight, bias, grad_output = GOOD.tensors(torch.float32)
    geometry = GOOD.geometry
    good = (
        ("depthwise_conv2d", [input, weight, bias, *geometry, 3, code]),
        (
            "depthwise_conv2d_backward",
            [grad_output, input, weight, *geometry, True, True, True, code],
        ),
        (
            "depthwise_conv2d_activation_backward",
            [grad_output, input, weight, bias, *geometry, 3, code],
        ),
    )
    for _ in range(count):
        name, arguments = generator.choice(good)
        arguments = list(arguments)
        for position in generator.sample(range(len(arguments)), generator.randint(1, 3)):
            value = arguments[position]
            if isinstance(value, torch.Tensor):
                arguments[position] = wrong_tensor(generator, value)
            elif isinstance(value, int) and not isinstance(value, bool):
                arguments[position] = generator.choice(INTEGERS)
        yield getattr(torch.ops.effkern, generator.choice(("", "_")) + name), arguments


def functional_calls(generator, count):
    tensors = dict(zip(("input", "weight", "bias"), GOOD.tensors(torch.float32), strict=False))
    values = (*INTEGERS, 2**63, None, "x", "same", 1.5, (1,), (1, 2, 3), (1, -1), ((1, 2), (0, -1)))
    for _ in range(count):
        call = dict(tensors)
        for name in generator.sample(("stride", "padding", "dilation"), generator.randint(0, 3)):
            call[name] = generator.choice(values)
        for name in generator.sample(tuple(tensors), generator.randint(0, 2)):
            call[name] = generator.choice((wrong_tensor(generator, tensors[name]), None, 1, [2.0]))
        yield depthwise_conv2d, call


def outcome(function, arguments):
    """0 for a call that runs, as some of those drawn may, and 1 for one that raises."""
    try:
        if isinstance(arguments, dict):
            function(**arguments)
        else:
            function(*arguments)
    except (RuntimeError, TypeError, ValueError):
        return 1
    return 0


@native
@pytest.mark.parametrize("kind", ("operators", "functional"))
def test_thousands_of_bad_calls(backend, kind):
    generator = random.Random(20)
    count = 300 if backend.slow else 3000
    with SentinelBuffer(torch.randn(2**12)) as guarded:
        # Everything that is drawn lies among sentinels.
        def guard(value):
            if not isinstance(value, torch.Tensor) or value.is_meta or value.dtype != torch.float32:
                return value
            if value.numel() > 2**11:
                return value
            return guarded.view[: value.numel()].view(value.shape)

        calls = []
        drawn = (
            operator_calls(generator, backend.code, count)
            if kind == "operators"
            else functional_calls(generator, count)
        )
        for function, arguments in drawn:
            if isinstance(arguments, dict):
                arguments = {name: guard(value) for name, value in arguments.items()}
            else:
                arguments = [guard(value) for value in arguments]
            calls.append((function, arguments))
        raised = sum(outcome(*call) for call in calls)
        assert raised > count * 5 // 6
    if backend.slow:
        return
    # Once more, with everything that is kept after a first time in place.
    growth = heap_growth(lambda: [outcome(*call) for call in calls[:500]], 10)
    assert growth / 500 < 16
