"""The look at PTX: texts of kernels that do their work, and of kernels that do not."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from profiler.microbenchmark import Microbenchmark
from profiler.workloads.ptx import (
    GeneratedPtxError,
    check_ptx,
    innermost_loops,
    moved_bytes,
    opcodes,
    ptx_problem,
)

LOAD = Microbenchmark(point="load", family="load", kernel="load", level="dram", working_set_bytes=1)
FMA = Microbenchmark(point="fma", family="fma", kernel="fma", dtype="fp32")

LOAD_LOOP = """
$L__BB0_2:
	mov.b32 %r9, 0;
$L__BB0_3:                              // Parent Loop BB0_2 Depth=1
	// begin inline asm
	mov.u64 %rd1, 0x0;
	@%p2 ld.global.cg.v2.b64 { %rd1, %rd2 }, [ %rd3 + 0 ];
	// end inline asm
	add.s64 	%rd9, %rd1, %rd9;
$L__tmp2:
	setp.lt.s32 	%p5, %r9, %r3;
	@%p5 bra 	$L__BB0_3;
	add.s32 	%r4, %r4, 1;
	@%p6 bra 	$L__BB0_2;
	st.global.b64 	[%rd4], %rd9;
	ret;
"""


def loop_of(*lines: str) -> str:
    return "\n".join(["$L__BB0_1:", *(f"\t{line};" for line in lines), "\t@%p1 bra \t$L__BB0_1;", "\tret;"])


def with_kernel(kernel: str, **changes: object) -> Microbenchmark:
    return replace(LOAD, point=kernel, kernel=kernel, **changes)  # type: ignore[arg-type]


def test_the_inner_loop_is_found_with_its_instructions() -> None:
    (body,) = innermost_loops(LOAD_LOOP)
    names = opcodes(body)
    assert names[:2] == ["mov.u64", "ld.global.cg.v2.b64"]
    assert "st.global.b64" not in names
    assert moved_bytes(names, "ld.global") == 16


def test_a_kernel_that_does_its_work_passes() -> None:
    check_ptx(LOAD, LOAD_LOOP)
    check_ptx(replace(LOAD, level="l1"), LOAD_LOOP.replace(".cg", ""))


def test_loads_of_the_first_level_must_not_pass_it_by() -> None:
    with pytest.raises(GeneratedPtxError, match="pass the first level by"):
        check_ptx(replace(LOAD, level="l1"), LOAD_LOOP)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("ret;", "no loop"),
        (LOAD_LOOP.replace("@%p2 ld.global", "@%p2 nothing"), "reads 0"),
        (LOAD_LOOP.replace(".cg", ".ca"), r"do not say \.cg"),
        (LOAD_LOOP.replace("$L__tmp2:", "\tst.shared.b64 [%r1], %rd1;"), "shared memory"),
        (LOAD_LOOP.replace("$L__tmp2:", "\tst.global.b64 [%r1], %rd1;"), "writes 8"),
        (".local .align 4 .b8 depot[8];" + LOAD_LOOP, "local memory"),
    ],
)
def test_a_load_that_was_changed_is_refused(text: str, problem: str) -> None:
    with pytest.raises(GeneratedPtxError, match=problem):
        check_ptx(LOAD, text)


@pytest.mark.parametrize(
    ("benchmark", "lines", "good"),
    [
        (FMA, ["fma.rn.f32 %f1, %f1, %f1, %f2"] * 8 + ["add.s32 %r1, %r1, 1"], True),
        (FMA, ["mul.f32 %f1, %f1, %f1"] * 8, False),
        (FMA, ["fma.rn.f32 %f1, %f1, %f1, %f2"] * 8 + ["st.global.b32 [%rd1], %f1"], False),
        (replace(FMA, dtype="fp64"), ["fma.rn.f64 %f1, %f1, %f1, %f2"] * 8, True),
        (
            replace(FMA, dtype="bf16"),
            ["wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {%f1}, %rd1, %rd2, 1, 1, 1, 0, 1"],
            True,
        ),
        (replace(FMA, dtype="fp16"), ["mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f1}"], True),
        (replace(FMA, dtype="tf32"), ["fma.rn.f32 %f1, %f1, %f1, %f2"] * 8, False),
        (with_kernel("store"), ["st.global.v2.b64 [%rd1], {%rd2, %rd3}"], True),
        (with_kernel("store"), ["add.s32 %r1, %r1, 1"], False),
        (with_kernel("copy"), ["ld.global.cg.b64 %rd1, [%rd2]", "st.global.b64 [%rd3], %rd1"], True),
        (with_kernel("copy"), ["ld.global.cg.v2.b64 %rd1, [%rd2]", "st.global.b64 [%rd3], %rd1"], False),
        (
            with_kernel("triad"),
            ["ld.global.cg.b64 %rd1, [%rd2]", "ld.global.cg.b64 %rd3, [%rd4]", "st.global.b64 [%rd5], %rd1"],
            True,
        ),
        (with_kernel("triad"), ["ld.global.cg.b64 %rd1, [%rd2]", "st.global.b64 [%rd3], %rd1"], False),
        (
            with_kernel("sparse-update"),
            ["ld.global.cg.b32 %r1, [%rd2]", "st.global.b32 [%rd2], %r1"],
            True,
        ),
        (with_kernel("sparse-update"), ["ld.global.cg.b32 %r1, [%rd2]"], False),
        (with_kernel("spin", level=None), ["xor.b32 %r1, %r1, %r2"] * 3, True),
        (with_kernel("spin", level=None), ["add.s32 %r1, %r1, 1"], False),
        (
            with_kernel("intensity", dtype="fp32", fma_per_element=2),
            ["ld.global.cg.v2.b32 {%f1, %f2}, [%rd1]", *["fma.rn.f32 %f1, %f1, %f1, %f2"] * 4]
            + ["add.f32 %f3, %f3, %f1"] * 2,
            True,
        ),
        (
            with_kernel("intensity", dtype="fp32", fma_per_element=2),
            ["ld.global.cg.v2.b32 {%f1, %f2}, [%rd1]", "add.f32 %f3, %f3, %f1", "add.f32 %f3, %f3, %f1"],
            False,
        ),
    ],
)
def test_each_kernel_has_its_rule(benchmark: Microbenchmark, lines: list[str], good: bool) -> None:
    assert (ptx_problem(benchmark, loop_of(*lines)) == "") is good


I64, LINES = {"elements": "*i64"}, {"share_lines": "i32", "loops": "i32"}
SHAPE = {"line_elements": 4, "block": 8192}


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(
    ("benchmark", "signature", "constants", "warps"),
    [
        (LOAD, I64 | {"sums": "*i64"} | LINES, SHAPE | {"shared": False, "cache": ".cg"}, 32),
        (
            replace(LOAD, level="l1", shared=True),
            I64 | {"sums": "*i64"} | LINES,
            SHAPE | {"shared": True, "cache": ""},
            32,
        ),
        (with_kernel("store"), I64 | LINES, SHAPE, 32),
        (with_kernel("copy"), I64 | {"half_lines": "i32", "loops": "i32"}, SHAPE | {"cache": ".cg"}, 32),
        (
            with_kernel("gather"),
            I64 | {"sums": "*i64", "share_lines": "i32", "shift": "i32", "loops": "i32"},
            SHAPE | {"cache": ".cg"},
            32,
        ),
        (
            with_kernel("scatter"),
            I64 | {"share_lines": "i32", "shift": "i32", "loops": "i32"},
            SHAPE | {"cache": ".cg"},
            32,
        ),
        (FMA, {"state": "*fp32", "rounds": "i32", "zeros": "i32"}, {"steps": 16, "block": 4096}, 32),
        (
            replace(FMA, dtype="fp64"),
            {"state": "*fp64", "rounds": "i32", "zeros": "i32"},
            {"steps": 16, "block": 4096},
            32,
        ),
        (
            with_kernel("intensity", dtype="fp32", fma_per_element=16),
            {"elements": "*fp32", "sums": "*fp32"} | LINES,
            {"fma_per_element": 16, "line_elements": 8, "block": 16384, "cache": ".cg"},
            32,
        ),
        (
            with_kernel("intensity", dtype="fp64", fma_per_element=1),
            {"elements": "*fp64", "sums": "*fp64"} | LINES,
            {"fma_per_element": 1, "line_elements": 4, "block": 8192, "cache": ".cg"},
            32,
        ),
        *[
            (
                replace(FMA, dtype=dtype),
                {"left": element, "right": element, "sums": total, "steps": "i32"},
                {"rows": 128, "columns": 128, "depth": depth, "precision": "tf32"},
                8,
            )
            for dtype, element, total, depth in (
                ("bf16", "*bf16", "*fp32", 64),
                ("fp16", "*fp16", "*fp32", 64),
                ("tf32", "*fp32", "*fp32", 32),
                ("int8", "*i8", "*i32", 128),
            )
        ],
        (
            with_kernel("triad"),
            {"elements": "*fp64", "third_lines": "i32", "loops": "i32"},
            {"line_elements": 4, "block": 4096, "cache": ".cg"},
            32,
        ),
        *[
            (
                with_kernel("sparse-update", density=density),
                {"weights": "*fp32", "indices": "*i32", "gradients": "*fp32"}
                | {"share_chunks": "i32", "loops": "i32"},
                {"chunk": round(256 / density), "kept": 256, "together": 32},
                32,
            )
            for density in (0.01, 1.0)
        ],
        (with_kernel("spin", level=None), {"states": "*i32", "steps": "i32"}, {"block": 32}, 1),
    ],
)
def test_compiled_kernels_pass(
    benchmark: Microbenchmark,
    signature: dict[str, str],
    constants: dict[str, object],
    warps: int,
    capability: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: os.PathLike[str],
) -> None:
    """What Triton makes of every kernel for an A100 and an H100, with no GPU here."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from profiler.workloads import cuda_kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")
    matrices = benchmark.dtype in ("bf16", "fp16", "tf32", "int8")
    name = "dot" if matrices else benchmark.kernel.replace("-", "_")
    source = ASTSource(
        fn=getattr(cuda_kernels, name),
        signature={**signature, **dict.fromkeys(constants, "constexpr")},
        constexprs=constants,
        attrs={
            (index,): [["tt.divisibility", 16]]
            for index, kind in enumerate(signature.values())
            if "*" in kind
        },
    )
    compiled = triton.compile(
        source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps, "num_stages": 1}
    )
    check_ptx(benchmark, compiled.asm["ptx"])
