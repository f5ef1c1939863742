"""The layers that are measured, and their arithmetic."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from benchmarks import options, workloads
from benchmarks.problem import PASSES, Problem, random_tensors
from benchmarks.workloads import Layer, generate


def test_the_committed_files_are_what_the_script_writes(tmp_path):
    pytest.importorskip("timm")
    generate.generate(tmp_path)
    for path in sorted(tmp_path.iterdir()):
        assert path.read_text() == (workloads.FOLDER / path.name).read_text(), path.name
    assert {path.stem for path in tmp_path.iterdir()} == set(workloads.models())


def test_distinct_layers_have_distinct_names_and_keep_their_counts():
    layers = workloads.distinct(workloads.models())
    assert len({layer.name for layer in layers}) == len(layers) == 37
    uses = sum(sum(counts.values()) for counts in layers.values())
    assert uses == sum(sum(workloads.load(name).values()) for name in workloads.models())


def test_an_unknown_model_is_an_error_that_lists_the_known():
    with pytest.raises(ValueError, match="convnext_tiny.*got 'resnet_50'"):
        workloads.load("resnet_50")


def test_asymmetric_padding_becomes_symmetric_of_the_same_output_size():
    layer = Layer(3, 3, 2, 2, 1, 1, 8, 38, 38, 0, 1, 0, 1)
    symmetric = layer.with_symmetric_padding()
    assert (symmetric.pad_top, symmetric.pad_bottom) == (1, 1)
    assert (symmetric.out_height, symmetric.out_width) == (layer.out_height, layer.out_width)


@pytest.mark.parametrize(
    "layer",
    [
        Layer(3, 5, 2, 1, 1, 2, 4, 9, 11, 1, 1, 4, 4),
        Layer(7, 7, 1, 1, 1, 1, 2, 5, 6, 3, 3, 3, 3, multiplier=2),
        Layer(2, 2, 3, 3, 1, 1, 3, 8, 8, 0, 0, 0, 0),
    ],
)
def test_flops_count_the_taps_that_meet_the_image(layer):
    problem = Problem(layer, "fwd", batch=2)
    # With ones everywhere, an output is the number of its taps that are not padding.
    taps = F.conv2d(
        torch.ones(2, layer.channels, layer.height, layer.width),
        torch.ones(layer.out_channels, 1, layer.kernel_h, layer.kernel_w),
        None,
        (layer.stride_h, layer.stride_w),
        (layer.pad_top, layer.pad_left),
        (layer.dilation_h, layer.dilation_w),
        layer.channels,
    )
    assert taps.shape[2:] == (layer.out_height, layer.out_width)
    assert problem.flops == 2 * int(taps.sum())


@pytest.mark.parametrize("pass_", PASSES)
def test_bytes_count_every_operand_and_result_once(pass_):
    problem = Problem(Layer(3, 3, 2, 2, 1, 1, 4, 9, 9, 1, 1, 1, 1), pass_, "bfloat16", batch=3)
    tensors = random_tensors(problem)
    counted = (tensors.input, tensors.grad_output, tensors.weight)
    assert problem.bytes == sum(tensor.nbytes for tensor in counted)


def test_a_quick_run_takes_one_layer_of_each_class():
    everything = options.Options(device="cpu")
    quick = options.Options(device="cpu", scope="quick")
    kinds = [layer.kind for layer in quick.layers()]
    assert len(kinds) == len(set(kinds))
    # PyTorch takes seconds for these.
    assert {layer.kind for layer in everything.layers()} - set(kinds) == {"k29 s1", "k31 s1"}
    assert everything.covers_default and not quick.covers_default
