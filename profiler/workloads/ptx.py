"""Looks at the PTX of a GPU kernel: do its loops do the work that is counted?

A compiler may leave out work whose result nobody needs, lift it out of a loop, or send registers through
shared memory on the way. None of that shows in a result. Read is the text that Triton hands to the assembler.
"""

from __future__ import annotations

import re

from calibration_data import MeasurementError
from profiler.microbenchmark import Microbenchmark
from profiler.workloads.cuda_work import DOT_DEPTH

_WIDTH = re.compile(r"(?:\.v(\d))?\.[bsuf](\d+)$")
_MATRIX = {"tf32": "tf32.tf32", "bf16": "bf16.bf16", "fp16": "f16.f16", "int8": "s8.s8"}


class GeneratedPtxError(MeasurementError):
    """The compiled kernel does not do the work that is counted."""


def check_ptx(benchmark: Microbenchmark, text: str) -> None:
    """Look at the kernel of a microbenchmark.

    Args:
        benchmark: one that runs as a single Triton kernel.
        text: its PTX.

    Raises:
        GeneratedPtxError: work was optimised away, or is not done as it is counted.
    """
    problem = ptx_problem(benchmark, text)
    if problem:
        raise GeneratedPtxError(
            f"The compiled kernel of {benchmark.point} does not do the work that is counted: {problem}.",
            next_step="Report it with the versions of torch and triton; another version may do.",
        )


def ptx_problem(benchmark: Microbenchmark, text: str) -> str:
    """What is wrong with the code; empty where nothing is."""
    if ".local" in text:
        return "it keeps registers in local memory"
    working = [loop for loop in (opcodes(body) for body in innermost_loops(text)) if loop]
    if not working:
        return "it has no loop"
    # Matrix units take their operands from shared memory; nothing has to put them there again.
    refused = ("st",) if benchmark.dtype in DOT_DEPTH else ("ld", "st")
    if any(".shared" in name and name.startswith(refused) for loop in working for name in loop):
        return "its loop passes through shared memory"
    problems = [_loop_problem(benchmark, loop) for loop in working]
    return "" if "" in problems else problems[0]


def _loop_problem(benchmark: Microbenchmark, loop: list[str]) -> str:
    read, written = moved_bytes(loop, "ld.global"), moved_bytes(loop, "st.global")
    loads = [name for name in loop if name.startswith("ld.global")]
    if benchmark.level == "l1" and any(".cg" in name for name in loads):
        return "its loads pass the first level by"
    if benchmark.level != "l1" and any(".cg" not in name for name in loads):
        return "its loads do not say .cg, so the first level may serve them"
    match benchmark.kernel:
        case "load" | "gather":
            return "" if read and not written else f"its loop reads {read} and writes {written} bytes"
        case "store":
            return "" if written and not read else f"its loop reads {read} and writes {written} bytes"
        case "copy" | "scatter" | "sparse-update":
            return "" if read == written > 0 else f"its loop reads {read} and writes {written} bytes"
        case "triad":
            return "" if read == 2 * written > 0 else f"its loop reads {read} and writes {written} bytes"
        case "intensity":
            return _intensity_problem(benchmark, loop, read)
    if read or written:
        return "its loop goes to memory"
    if benchmark.kernel == "fma" and benchmark.dtype in DOT_DEPTH:
        kind = _MATRIX[benchmark.dtype or ""]
        found = [name for name in loop if "mma" in name and kind in name]
        return "" if found else f"no loop of matrix products of {kind}"
    if benchmark.kernel == "fma":
        fused = loop.count(f"fma.rn.{_float(benchmark)}")
        return "" if 2 * fused > len(loop) else f"{fused} multiply-adds in {len(loop)} instructions"
    xors = sum(name.startswith(("xor", "lop3")) for name in loop)
    return "" if xors >= 3 else "its chain of shifts was not kept"


def _intensity_problem(benchmark: Microbenchmark, loop: list[str], read: int) -> str:
    kind = _float(benchmark)
    elements = read // (int(kind[1:]) // 8)
    fused, sums = (
        loop.count(f"fma.rn.{kind}"),
        sum(name in (f"add.{kind}", f"add.rn.{kind}") for name in loop),
    )
    if elements and fused == benchmark.fma_per_element * elements and sums == elements:
        return ""
    return f"{fused} multiply-adds and {sums} sums to {elements} elements"


def _float(benchmark: Microbenchmark) -> str:
    return "f32" if benchmark.dtype == "fp32" else "f64"


def innermost_loops(text: str) -> list[str]:
    """Code from a label to the jump back to it, without loops that contain others."""
    code = re.sub(r"//.*", "", text)
    labels = {match[1]: match.end() for match in re.finditer(r"^(\$\w+):", code, re.MULTILINE)}
    spans = [
        (labels[match[1]], match.start())
        for match in re.finditer(r"\bbra(?:\.uni)?\s+(\$\w+);", code)
        if labels.get(match[1], len(code)) < match.start()
    ]
    inner = [
        span
        for span in spans
        if not any(other != span and span[0] <= other[0] and other[1] <= span[1] for other in spans)
    ]
    return [code[start:end] for start, end in inner]


def opcodes(body: str) -> list[str]:
    """Instructions of a piece of code, by name, predicates left out."""
    found = re.finditer(r"^[\s{]*(?:@!?%\w+\s+)?([a-z]\w*(?:[.:]+\w+)*)", body, re.MULTILINE)
    return [match[1].replace("::", ".") for match in found]


def moved_bytes(loop: list[str], access: str) -> int:
    """Bytes that one thread moves in one turn of a loop."""
    total = 0
    for name in loop:
        width = _WIDTH.search(name)
        if name.startswith(access) and width:
            total += int(width[1] or 1) * int(width[2]) // 8
    return total
