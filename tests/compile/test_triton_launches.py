"""The Triton launchers without a GPU: grids, specialisation, memory, limits, and their errors."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
import torch

from benchmarks import workloads
from effkern import _triton

pytest.importorskip("triton")
if _triton.interpreting():
    pytest.skip("wanted a process that compiles, not TRITON_INTERPRET=1", allow_module_level=True)

from effkern.triton_kernels.depthwise_conv2d import configs, launch  # noqa: E402

from effkern.testing import triton_blocks  # noqa: E402
from effkern.testing.triton_stub import recorded_launches  # noqa: E402

LAYERS = list(workloads.distinct(workloads.models()))
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
all_layouts = pytest.mark.parametrize("layout", LAYOUTS)


def image(*shape, dtype=torch.bfloat16, layout="contiguous", device="meta"):
    return torch.empty(shape, dtype=dtype, device=device, memory_format=LAYOUTS[layout])


def geometry(stride=1, padding=1, dilation=1):
    return (stride, stride, padding, padding, padding, padding, dilation, dilation)


def forward(input, weight, output, stride=1, padding=1, dilation=1):
    numbers = geometry(stride, padding, dilation)
    launch.stencil("forward", input, weight, None, None, output, numbers, 0, False)


@all_layouts
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name.replace(" ", "-"))
def test_grids_cover_every_layer(layer, layout):
    numbers = (
        *(layer.stride_h, layer.stride_w, layer.pad_top, layer.pad_bottom),
        *(layer.pad_left, layer.pad_right, 1, 1),
    )
    kernel = (layer.kernel_h, layer.kernel_w)
    input = image(4, layer.channels, layer.height, layer.width, layout=layout)
    output = image(4, layer.channels, layer.out_height, layer.out_width, layout=layout)
    weight = torch.empty(layer.channels, 1, *kernel, dtype=torch.bfloat16, device="meta")
    with recorded_launches(90) as recorded:
        launch.stencil("forward", input, weight, None, None, output, numbers, 0, False)
        launch.stencil("backward", output, weight, None, None, input, numbers, 0, True)
        launch.weight_grad("backward", input, output, weight, None, kernel, numbers)
    stencils = [found for found in recorded if found.kernel == "stencil_kernel"]
    assert len(stencils) == 2
    for found, tensor in zip(stencils, (output, input), strict=True):
        values = found.values
        tile = values["ROWS"] * values["COLUMNS"] * values["CHANNELS"]
        assert found.grid[0] * tile >= tensor.numel()
        # Tiles beyond the edges are waste: of odd sizes, up to half in each of three directions.
        assert found.grid[0] * tile <= 8 * tensor.numel()
        assert found.grid[1:] == (1, 1)
    names = [found.kernel for found in recorded]
    assert names[-2:] == ["weight_grad_kernel", "weight_grad_reduce_kernel"]
    assert names.count("pack_weight_kernel") == (2 if layout == "channels_last" else 0)


@pytest.mark.parametrize(
    ("dtype", "channels", "vector"),
    (
        (torch.bfloat16, 64, 8),
        (torch.bfloat16, 24, 8),
        (torch.bfloat16, 100, 4),
        (torch.bfloat16, 33, 1),
        (torch.float32, 24, 4),
        (torch.float32, 6, 2),
        (torch.float64, 24, 2),
    ),
    ids=str,
)
def test_vectors_of_channels(dtype, channels, vector):
    input = image(2, channels, 9, 9, dtype=dtype, layout="channels_last")
    weight = torch.empty(channels, 1, 3, 3, dtype=dtype, device="meta")
    with recorded_launches(90) as recorded:
        forward(input, weight, torch.empty_like(input))
    assert recorded[-1].values["VECTOR"] == vector
    # Slices of channels keep their pixels' addresses, and lose what they do not share.
    with recorded_launches(90) as recorded:
        forward(input[:, : channels // 2], weight[: channels // 2], input[:, channels // 2 :])
    assert recorded[-1].values["VECTOR"] == min(vector, (channels // 2) & -(channels // 2))


def test_an_unaligned_address_is_no_vector():
    memory = torch.empty(2 * 8 * 8 * 16 + 8, dtype=torch.bfloat16)
    weight = torch.empty(16, 1, 3, 3, dtype=torch.bfloat16)
    fingerprints = set()
    for offset in (0, 1):
        input = memory[offset:].as_strided((2, 16, 8, 8), (1024, 1, 128, 16))
        with recorded_launches(90) as recorded:
            forward(input, weight, torch.empty_like(input))
        fingerprints.add(recorded[-1].fingerprint)
    assert len(fingerprints) == 2


@all_layouts
@pytest.mark.parametrize(
    ("shape", "wide"),
    (((1, 64, 56, 56), False), ((4096, 64, 112, 112), False), ((1, 64, 8192, 8192), True)),
    ids=str,
)
def test_64_bit_offsets_only_where_an_image_needs_them(shape, wide, layout):
    input = image(*shape, layout=layout)
    weight = torch.empty(64, 1, 3, 3, dtype=torch.bfloat16, device="meta")
    with recorded_launches(90) as recorded:
        forward(input, weight, torch.empty_like(input))
        launch.weight_grad("backward", input, input, weight, None, (3, 3), geometry())
    assert {found.values["WIDE"] for found in recorded if "WIDE" in found.values} == {wide}


@all_layouts
def test_sizes_compile_nothing_anew(layout):
    # Batch, height and width are no constants: a model that sees other sizes recompiles nothing.
    fingerprints = set()
    for size, batch in ((32, 1), (33, 2), (57, 7), (64, 64)):
        input = image(batch, 64, size, 32, layout=layout)
        weight = torch.empty(64, 1, 3, 3, dtype=torch.bfloat16, device="meta")
        with recorded_launches(90) as recorded:
            forward(input, weight, torch.empty_like(input))
        fingerprints.add(recorded[-1].fingerprint)
    assert len(fingerprints) == 1


def test_too_many_rows_are_an_error():
    input = torch.empty(1, device="meta").expand(1, 1, 2**31, 1)
    with recorded_launches(90), pytest.raises(RuntimeError) as caught:
        forward(input, torch.empty(1, 1, 1, 1, device="meta"), input, padding=0)
    assert str(caught.value).startswith("effkern.forward: input: wanted at most")
    assert str(caught.value).endswith(f"got {2**31}")


def test_an_error_of_triton_names_the_launch(monkeypatch):
    from triton.runtime.errors import OutOfResources
    from triton.runtime.jit import JITFunction

    def refuse(self, *arguments, **keywords):
        raise OutOfResources(400000, 232448, "shared memory")

    input = image(2, 64, 9, 9, layout="channels_last")
    weight = torch.empty(64, 1, 3, 3, dtype=torch.bfloat16, device="meta")
    with recorded_launches(90):
        monkeypatch.setattr(JITFunction, "run", refuse)
        with pytest.raises(RuntimeError) as caught:
            forward(input, weight, torch.empty_like(input))
    message = str(caught.value)
    assert "StencilConfig(rows=4, columns=16, channels=64" in message
    assert "OutOfResources" in message and "232448" in message


@pytest.mark.parametrize("kernel", (1, 3, 5, 7, 13, 31))
@pytest.mark.parametrize("unit", ("c", "w", ""))
@pytest.mark.parametrize("itemsize", (2, 4, 8))
def test_tiles_suit_triton(unit, itemsize, kernel):
    for size in (1, 2, 7, 8, 14, 19, 56, 112, 4096):
        for channels in (1, 3, 16, 24, 64, 960):
            stencil = configs.stencil(unit, itemsize, size, size, channels, kernel, 1)
            gradient = configs.weight_grad(
                unit, itemsize, 8, size, size, channels, (kernel, kernel), 1
            )
            for config in (stencil, gradient):
                for value in (config.columns, config.channels, config.warps):
                    assert value & (value - 1) == 0 and value > 0
                assert config.warps <= 16 and 1 <= config.rows <= 7
            assert gradient.splits >= 1


@pytest.mark.parametrize("unknown", (75, 91))
def test_capabilities_that_are_not_known(unknown):
    with pytest.raises(ValueError, match=f"wanted one of 80, 90, .* got {unknown}"):
        with recorded_launches(unknown):
            pass


_SOURCE = """
import triton
import triton.language as tl

@triton.jit
def helper(x):
    return x {operation} 2.0

@triton.jit
def unused(x):
    return x

@triton.jit
def doubled(x, y):
    {comment}
    tl.store(y, helper(tl.load(x)))
"""


def test_ir_is_the_same_until_the_arithmetic_changes(tmp_path):
    def ir(number, operation, comment="pass", dtype=torch.float32):
        # Names of modules are part of the IR.
        path = tmp_path / str(number) / "kernels.py"
        path.parent.mkdir()
        path.write_text(_SOURCE.format(operation=operation, comment=comment))
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        x = torch.empty(1, dtype=dtype, device="meta")
        with recorded_launches(90) as recorded:
            module.doubled[(1,)](x, x)
        return recorded[0].ir

    first = ir(0, "*")
    assert ir(1, "*", "# Moved:\n\n    pass") == first
    assert ir(2, "+") != first
    assert ir(3, "*", dtype=torch.float64) != first


@pytest.mark.parametrize("block", triton_blocks.FUSED, ids=lambda block: block.name)
@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float32), ids=str)
def test_one_launch_covers_a_fused_block(block, dtype):
    with recorded_launches(90) as recorded:
        triton_blocks.run(block, dtype, batch=3)
    (found,) = recorded
    pixels = 3 * (-(-block.size // block.stride)) ** 2
    assert found.grid == (-(-pixels // found.values["PIXELS"]), 1, 1)
    assert found.values["OUT"] >= (block.out or 1) and not found.values["WIDE"]
    columns = found.values["EXPANDED"] * found.values["GROUPS"]
    # A multiple of what the block has, or the last pass computes zeros.
    assert -(-block.expanded // columns) * columns <= 1.34 * block.expanded


def test_sizes_of_a_fused_block_compile_nothing_anew():
    fingerprints = set()
    for size, batch in ((38, 1), (19, 2), (64, 16)):
        with recorded_launches(90) as recorded:
            triton_blocks.run(triton_blocks.FUSED[-1]._replace(size=size), torch.bfloat16, batch)
        fingerprints.add(recorded[0].fingerprint)
    assert len(fingerprints) == 1


def test_large_batches_of_a_fused_block_take_64_bit_offsets():
    with recorded_launches(90) as recorded:
        triton_blocks.run(triton_blocks.FUSED[0], torch.bfloat16, 4096)
    assert recorded[0].values["WIDE"]


@pytest.mark.parametrize("norm", triton_blocks.NORMS, ids=lambda norm: norm.name)
@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float32), ids=str)
def test_one_launch_covers_a_convolution_with_norm(norm, dtype):
    with recorded_launches(90) as recorded:
        triton_blocks.run_norm(norm, dtype, batch=3)
    packing, found = recorded
    assert packing.kernel == "pack_weight_kernel"
    values = found.values
    blocks = -(-norm.size // values["ROWS"]) * -(-norm.size // values["COLUMNS"])
    assert found.grid == (3 * blocks, 1, 1) and not values["WIDE"]
    assert values["CHANNELS"] * values["GROUPS"] == norm.channels


@pytest.mark.parametrize("product", triton_blocks.PRODUCTS, ids=lambda product: product.name)
@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float32), ids=str)
def test_one_launch_covers_a_product(product, dtype):
    with recorded_launches(90) as recorded:
        triton_blocks.run_product(product, dtype)
    (found,) = recorded
    values, pixels = found.values, product.size**2
    images = product.batch
    if "gate" not in product.operands:
        images, pixels = 1, images * pixels
    blocks = images * -(-pixels // values["PIXELS"])
    assert found.grid == (blocks * -(-product.out // values["OUT"]), 1, 1)
    assert not values["WIDE"]
    # Of a matrix product, padding computes at most as much again.
    assert -(-product.out // values["OUT"]) * values["OUT"] < 2 * product.out
    assert -(-product.channels // values["REDUCTION"]) * values["REDUCTION"] < 2 * product.channels


def test_batches_of_a_product_compile_nothing_anew():
    fingerprints = set()
    for batch in (64, 65, 128):
        with recorded_launches(90) as recorded:
            triton_blocks.run_product(triton_blocks.PRODUCTS[0], torch.bfloat16, batch)
        fingerprints.add(recorded[0].fingerprint)
    assert len(fingerprints) == 1


def test_large_batches_of_a_product_take_64_bit_offsets():
    with recorded_launches(90) as recorded:
        triton_blocks.run_product(triton_blocks.PRODUCTS[0], torch.bfloat16, 4096)
    assert recorded[0].values["WIDE"]


@pytest.mark.parametrize("mlp", triton_blocks.MLPS, ids=lambda mlp: mlp.name)
@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float32), ids=str)
def test_one_launch_covers_an_mlp(mlp, dtype):
    with recorded_launches(90) as recorded:
        triton_blocks.run_mlp(mlp, dtype, batch=3)
    (found,) = recorded
    assert found.grid == (-(-3 * mlp.size**2 // found.values["PIXELS"]), 1, 1)
    assert found.values["OUT"] >= mlp.channels and found.values["KERNEL_H"] == 1


def test_effkern_does_not_import_triton():
    code = "import sys, effkern; effkern.backends(); print('triton' in sys.modules)"
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert finished.stdout.strip() == "False"
