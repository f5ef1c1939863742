"""The kernels of whole blocks: what the functions' tests do not reach in the interpreter."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import effkern
from effkern import _triton
from effkern.functional import depthwise_conv2d_layer_norm, fused_mbconv
from effkern.testing.poison import SentinelBuffer

if not _triton.interpreting():
    pytest.skip("wanted a process with TRITON_INTERPRET=1", allow_module_level=True)

from effkern.triton_kernels.fused_mbconv import configs, launch  # noqa: E402


@pytest.fixture(autouse=True)
def interpreted():
    with effkern.backend("triton_interpreted"):
        yield


def block(dtype=torch.float32, channels=8, out=8):
    generator = torch.Generator().manual_seed(2)

    def draw(*shape):
        return torch.randn(shape, generator=generator).to(dtype)

    return {
        "input": draw(2, channels, 7, 6).contiguous(memory_format=torch.channels_last),
        "expand_weight": draw(24, channels, 3, 3) / 9,
        "expand_bias": draw(24),
        "project_weight": draw(out, 24) / 5,
        "project_bias": draw(out),
        "residual": draw(2, out, 7, 6).contiguous(memory_format=torch.channels_last),
    }


def composed(arguments):
    with effkern.backend("torch"):
        return fused_mbconv(**arguments)


@pytest.fixture
def launches(monkeypatch):
    """The launches of fused_mbconv's kernel, which is run."""
    found, forward = [], launch.forward

    def counted(*arguments):
        found.append(arguments)
        return forward(*arguments)

    monkeypatch.setattr(launch, "forward", counted)
    return found


def test_64_bit_offsets(monkeypatch, launches):
    monkeypatch.setattr(launch, "_MOST", 0)
    arguments = block()
    torch.testing.assert_close(fused_mbconv(**arguments), composed(arguments))
    assert len(launches) == 1


def test_height_and_width_are_not_exchanged(launches):
    arguments = block() | {"expand_weight": torch.randn(24, 8, 2, 5) / 9, "residual": None}
    arguments |= {"stride": (2, 1), "padding": ((0, 1), (3, 0))}
    torch.testing.assert_close(fused_mbconv(**arguments), composed(arguments), rtol=1e-4, atol=1e-5)
    assert len(launches) == 1


def test_views_at_any_address(launches):
    arguments = block(torch.float16)
    wanted = fused_mbconv(**arguments)
    buffers = {
        name: SentinelBuffer(t, offset=i + 1) for i, (name, t) in enumerate(arguments.items())
    }
    actual = fused_mbconv(**{name: buffer.view for name, buffer in buffers.items()})
    assert torch.equal(actual, wanted) and len(launches) == 2
    for name, buffer in buffers.items():
        buffer.assert_unchanged(name)


@pytest.mark.parametrize("activation", (None, "relu6"))
def test_infinite_pixels_stay_at_their_taps(launches, activation):
    arguments = block() | {"residual": None}
    arguments["input"][0, 3, 2, 5] = torch.inf
    with np.errstate(invalid="ignore"):
        actual = fused_mbconv(**arguments, activation=activation)
    near = torch.zeros(2, 8, 7, 6, dtype=torch.bool)
    near[0, :, 1:4, 4:] = activation is None
    assert torch.equal(~actual.isfinite(), near) and launches


def test_unbatched_and_empty(launches):
    arguments = block()
    wanted = fused_mbconv(**arguments)
    one = {name: arguments[name][1] for name in ("input", "residual")}
    torch.testing.assert_close(fused_mbconv(**(arguments | one)), wanted[1])
    empty = {name: arguments[name][:0] for name in ("input", "residual")}
    assert fused_mbconv(**(arguments | empty)).shape == (0, 8, 7, 6)
    assert len(launches) == 2


def test_calls_with_gradients_transforms_and_autocast_are_composed(launches):
    arguments = block()
    arguments["project_weight"].requires_grad_()
    assert fused_mbconv(**arguments).requires_grad
    arguments["project_weight"].requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):
        assert fused_mbconv(**(arguments | {"residual": None})).dtype == torch.bfloat16
    differentiated = torch.func.grad(lambda x: fused_mbconv(**(arguments | {"input": x})).sum())
    assert differentiated(arguments["input"]).shape == arguments["input"].shape
    assert not launches


def test_what_the_kernel_does_not_take():
    words = "^effkern.fused_mbconv: backend: wanted one that can run this call, got "
    with pytest.raises(RuntimeError, match=f"{words}'triton_interpreted': .* torch.float64 on cpu"):
        fused_mbconv(**block(torch.float64))
    with pytest.raises(RuntimeError, match=f"{words}.* at most 256 channels, not 257"):
        fused_mbconv(**block(out=257))
    with effkern.backend("triton"), pytest.raises(RuntimeError, match=f"{words}'triton': "):
        fused_mbconv(**block())
    with pytest.raises(RuntimeError, match="[Kk]ernel size"):
        fused_mbconv(
            **(block() | {"residual": None, "padding": 0, "input": torch.ones(1, 8, 2, 2)})
        )


def test_explain_tells_of_one_pass():
    tensors = (torch.ones(2, 24, 9, 9), torch.ones(24, 1, 7, 7), None, None, None)
    plan = effkern.explain(depthwise_conv2d_layer_norm, *tensors, padding=3).plans["forward"]
    assert plan.kernel == "depthwise_conv2d_layer_norm_kernel" and "one pass" in plan.reason
    assert (plan.tile, plan.grid, plan.workspace) == ("4x8x24", 2 * 3 * 2, 4 * 49 * 24)
    larger = (tensors[0], torch.ones(24, 1, 9, 9), None, None, None)
    plan = effkern.explain(depthwise_conv2d_layer_norm, *larger, padding=4).plans["forward"]
    assert plan.kernel == "stencil_kernel, aten::native_layer_norm" and "composed" in plan.reason


@pytest.mark.parametrize("itemsize", (2, 4))
def test_tiles_suit_triton(itemsize):
    for expanded in (1, 8, 16, 24, 48, 96, 192, 256, 320, 384, 512, 1000):
        for out in (None, 1, 16, 24, 48, 80, 128, 256):
            config = configs.config(expanded, out, itemsize)
            for value in (config.pixels, config.reduction, config.expanded, config.out):
                assert value & (value - 1) == 0 and value >= 16
            assert config.groups >= 1 and config.out >= (out or 0)
            held = config.expanded * config.groups + (0 if out is None else config.out)
            # Of a thread's 255 registers.
            assert held * config.pixels <= 144 * 32 * config.warps
            bytes_per_step = (config.pixels + config.expanded * config.groups) * config.reduction
            # What every device has for a block.
            assert bytes_per_step * itemsize * config.stages <= 99 << 10


def test_channels_that_are_no_power_of_two_are_not_padded():
    for expanded, out in ((96, 48), (192, 64), (320, 64), (160, 40), (384, 96)):
        config = configs.config(expanded, out, 2)
        assert expanded % (config.expanded * config.groups) == 0
