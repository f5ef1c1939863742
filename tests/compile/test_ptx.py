"""The PTX that nvcc makes of csrc/common/ptx.cuh's wrappers, against text from the PTX manual."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import build_cuda
import pytest
import torch

CSRC = Path(__file__).resolve().parents[2] / "csrc"
HEADER = CSRC / "common" / "ptx.cuh"
if not HEADER.is_file():
    pytest.skip("the sources are not here", allow_module_level=True)

# nvcc numbers registers; only their kind is compared. %r 32 bits, %rd 64 bits, %f float.
GOLDEN = {
    "store_global(s, make_uint2(r2[0], r2[1]))": "st.global.v2.b32 [%rd], {%r, %r};",
    "store_global(s, make_uint4(r4[0], r4[1], r4[2], r4[3]))": (
        "st.global.v4.b32 [%rd], {%r, %r, %r, %r};"
    ),
    "cp_async<4>(s, g, valid)": "cp.async.ca.shared.global [%r], [%rd], 4, %r;",
    "cp_async<8>(s, g, valid)": "cp.async.ca.shared.global [%r], [%rd], 8, %r;",
    "cp_async<16>(s, g, valid)": "cp.async.cg.shared.global [%r], [%rd], 16, %r;",
    "cp_async_commit()": "cp.async.commit_group;",
    "cp_async_wait<0>()": "cp.async.wait_group 0;",
    "cp_async_wait<2>()": "cp.async.wait_group 2;",
    "cp_async_wait_all()": "cp.async.wait_all;",
    "ldmatrix<1>(r1, s)": "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r}, [%r];",
    "ldmatrix<2>(r2, s)": "ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r, %r}, [%r];",
    "ldmatrix<4>(r4, s)": "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r, %r, %r, %r}, [%r];",
    "ldmatrix<1, true>(r1, s)": "ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%r}, [%r];",
    "ldmatrix<2, true>(r2, s)": "ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%r, %r}, [%r];",
    "ldmatrix<4, true>(r4, s)": (
        "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%r, %r, %r, %r}, [%r];"
    ),
    "stmatrix<1>(s, r1)": "stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r], {%r};",
    "stmatrix<2>(s, r2)": "stmatrix.sync.aligned.m8n8.x2.shared.b16 [%r], {%r, %r};",
    "stmatrix<4>(s, r4)": "stmatrix.sync.aligned.m8n8.x4.shared.b16 [%r], {%r, %r, %r, %r};",
    "stmatrix<1, true>(s, r1)": "stmatrix.sync.aligned.m8n8.x1.trans.shared.b16 [%r], {%r};",
    "stmatrix<2, true>(s, r2)": "stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%r], {%r, %r};",
    "stmatrix<4, true>(s, r4)": (
        "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%r], {%r, %r, %r, %r};"
    ),
    "mma_m16n8k16<__half>(d, r4, r2)": (
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f, %f, %f, %f}, {%r, %r, %r, %r}, "
        "{%r, %r}, {%f, %f, %f, %f};"
    ),
    "mma_m16n8k16<__nv_bfloat16>(d, r4, r2)": (
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f, %f, %f, %f}, {%r, %r, %r, %r}, "
        "{%r, %r}, {%f, %f, %f, %f};"
    ),
    "mma_m16n8k8<__half>(d, r2, r1[0])": (
        "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%f, %f, %f, %f}, {%r, %r}, {%r}, "
        "{%f, %f, %f, %f};"
    ),
    "mma_m16n8k8<__nv_bfloat16>(d, r2, r1[0])": (
        "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%f, %f, %f, %f}, {%r, %r}, {%r}, "
        "{%f, %f, %f, %f};"
    ),
    "mma_m16n8k8_tf32(d, r4, r2)": (
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%f, %f, %f, %f}, {%r, %r, %r, %r}, "
        "{%r, %r}, {%f, %f, %f, %f};"
    ),
    "r1[0] = to_tf32(d[0])": "cvt.rna.tf32.f32 %r, %f;",
    "d[0] = exp2_approx(d[0])": "ex2.approx.ftz.f32 %f, %f;",
    "d[0] = reciprocal_approx(d[0])": "rcp.approx.ftz.f32 %f, %f;",
    "keep(d[0])": "",
    "named_barrier_sync(valid, 64)": "bar.sync %r, %r;",
    "named_barrier_arrive(valid, 64)": "bar.arrive %r, %r;",
    "r1[0] = cluster_rank()": "mov.u32 %r, %cluster_ctarank;",
    "cluster_arrive()": "barrier.cluster.arrive.release.aligned;",
    "cluster_wait()": "barrier.cluster.wait.acquire.aligned;",
    "*cluster_shared(static_cast<int*>(s), 1u) = 1": "mapa.u64 %rd, %rd, %r;",
}

PROGRAM = """
#include "common/ptx.cuh"
using namespace effkern::ptx;
{kernels}
"""
KERNEL = """
extern "C" __global__ void kernel_{number}(void* s, const void* g, int valid, uint32_t* out) {{
  uint32_t r1[1] = {{out[0]}}, r2[2] = {{out[1], out[2]}};
  uint32_t r4[4] = {{out[3], out[4], out[5], out[6]}};
  float d[4] = {{1.f, 2.f, 3.f, __uint_as_float(out[7])}};
  {call};
  out[0] = r1[0], out[1] = r2[0], out[2] = r2[1];
  for (int i = 0; i < 4; ++i) out[3 + i] = r4[i], out[7 + i] = __float_as_uint(d[i]);
}}
"""


def compile_to_ptx(calls, folder, csrc=CSRC):
    """The inline assembly of each call, in the calls' order."""
    candidates = build_cuda.nvcc_candidates()
    if not candidates:
        pytest.skip("no nvcc")
    kernels = "".join(KERNEL.format(number=i, call=call) for i, call in enumerate(calls))
    source = folder / "wrappers.cu"
    source.write_text(PROGRAM.replace("{kernels}", kernels))
    output = folder / "wrappers.ptx"
    subprocess.run(
        [
            candidates[0],
            "-std=c++17",
            "-arch=compute_90",
            "-ptx",
            f"-I{csrc}",
            source,
            "-o",
            output,
        ],
        check=True,
    )
    texts = []
    for kernel in output.read_text().split(".entry kernel_")[1:]:
        blocks = re.findall(r"// begin inline asm\n(.*?)// end inline asm", kernel, re.DOTALL)
        texts.append([normalised(block) for block in blocks])
    return texts


def normalised(text):
    text = re.sub(r"(%r|%rd|%f)\d+\b", r"\1", " ".join(text.split()))
    return re.sub(r"\s*,\s*", ", ", text)


@pytest.fixture(scope="module")
def ptx(tmp_path_factory):
    return dict(
        zip(GOLDEN, compile_to_ptx(list(GOLDEN), tmp_path_factory.mktemp("ptx")), strict=True)
    )


@pytest.mark.parametrize("call", list(GOLDEN))
def test_text(ptx, call):
    # Newer compilers write float operands of inline assembly as 32-bit registers.
    assert [text.replace("%f", "%r") for text in ptx[call]] == [GOLDEN[call].replace("%f", "%r")]


def test_every_wrapper_is_compared():
    names = set(
        re.findall(r"__device__ __forceinline__ [\w:*<> ]+?\*? (\w+)\(", HEADER.read_text())
    )
    names.discard("shared_address")
    assert len(names) > 12
    for name in names:
        assert any(re.search(rf"\b{name}\b", call) for call in GOLDEN), name


def build_conformance(folder, *architectures):
    candidates = build_cuda.nvcc_candidates()
    if not candidates:
        pytest.skip("no nvcc")
    source = CSRC / "emulation" / "runners" / "ptx_conformance.cu"
    program = folder / "ptx_conformance"
    subprocess.run(
        [candidates[0], "-std=c++17", *architectures, f"-I{CSRC}", source, "-o", program],
        check=True,
    )
    return program


def test_conformance_program_compiles(tmp_path):
    codes = [f"-gencode=arch=compute_{sm},code=sm_{sm}" for sm in (80, 90)]
    assert build_conformance(tmp_path, *codes).is_file()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_conformance_on_this_gpu(tmp_path):
    """The same program passes on the emulator: tests/emulation."""
    program = build_conformance(tmp_path, "-arch=native")
    done = subprocess.run([program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0 and done.stdout.endswith("\n0 failures\n"), done.stdout


def test_inline_assembly_is_nowhere_else():
    for path in [*CSRC.rglob("*.cuh"), *CSRC.rglob("*.cu")]:
        if path != HEADER:
            assert not re.search(r"\basm\b", path.read_text()), path.name


def test_swapped_operands_are_found(tmp_path):
    csrc = tmp_path / "csrc"
    shutil.copytree(CSRC, csrc)
    header = csrc / "common" / "ptx.cuh"
    right, wrong = '[%0], [%1], 16, %2;"', '[%1], [%0], 16, %2;"'
    text = header.read_text()
    assert right in text
    header.write_text(text.replace(right, wrong))
    call = "cp_async<16>(s, g, valid)"
    assert compile_to_ptx([call], tmp_path, csrc) != [[GOLDEN[call]]]
