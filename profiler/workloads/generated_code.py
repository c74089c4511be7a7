"""Looks at the machine code of the CPU kernels, once for each: does it do what is counted?

A compiler may leave out work whose result nobody needs, replace a loop by a library call, or fall back to one
number at a time. None of that shows in a result, and all of it would make the counted work wrong. Read is the
code that runs (x86-64; on other machines nothing is checked and the conditions of the records say so).
"""

from __future__ import annotations

import functools
import platform
import re
from typing import Any

from calibration_data import MeasurementError
from profiler.microbenchmark import Microbenchmark
from profiler.network_work import NETWORK_KERNELS
from profiler.workloads import cpu_arithmetic, cpu_kernels, cpu_network, cpu_sparse

CHECKABLE = platform.machine() == "x86_64"

_VECTOR = r"%[xyz]mm\d+"
_LOAD = rf"\(.*\),?.*{_VECTOR}$"
_STORE = rf"mov\w+\s+{_VECTOR},.*\("
_SCALAR_STORE = r"movss\s+%xmm\d+,.*\("
_PACKED = {4: "ps", 8: "pd"}


class GeneratedCodeError(MeasurementError):
    """The compiled kernel does not do the work that is counted."""


def check_code(benchmark: Microbenchmark) -> None:
    """Look at the kernel of a microbenchmark, which must have been compiled for its types already.

    Raises:
        GeneratedCodeError: work was optimised away, or is not done as it is counted.
    """
    if CHECKABLE:
        itemsize = 4 if benchmark.dtype == "fp32" else 8
        _check(benchmark.kernel, itemsize, benchmark.fma_per_element, benchmark.data)


@functools.cache
def _check(kernel: str, itemsize: int, fma_per_element: int, data: str) -> None:
    problem = _problem(kernel, itemsize, fma_per_element, data)
    if problem:
        raise GeneratedCodeError(
            f"The compiled kernel {kernel!r} does not do the work that is counted: {problem}.",
            next_step="Report it with the versions of numba and llvmlite; another version may do.",
        )


def _problem(kernel: str, itemsize: int, fma_per_element: int, data: str) -> str:
    match kernel:
        case "load":
            return "" if loops(assembly(cpu_kernels.load, 8), _LOAD) else "no loop of vector loads"
        case "store" | "copy":
            return _store_problem(assembly(getattr(cpu_kernels, kernel), 8))
        case "triad":
            return _triad_problem(assembly(cpu_kernels.triad, 8))
        case "chase":
            return _chase_problem(assembly(cpu_kernels.chase, 8))
        case "gather" | "scatter":
            return _touch_problem(assembly(getattr(cpu_kernels, kernel), 8), kernel)
        case "fma":
            function = cpu_arithmetic.fma if data == "random" else cpu_arithmetic.fma_adding
            return _fma_problem(assembly(function, itemsize), itemsize)
        case "intensity":
            code = assembly(cpu_arithmetic.intensity_kernel(fma_per_element), itemsize)
            return _intensity_problem(code, itemsize, fma_per_element)
        case _ if kernel in NETWORK_KERNELS:
            return _network_problem(kernel)
        case "sparse-update":
            return _update_problem(assembly(cpu_sparse.sparse_update, 4))
        case "compaction":
            return _compaction_problem(assembly(cpu_sparse.compaction, 4))
        case _:
            return ""


def _store_problem(code: str) -> str:
    if re.search(r"\bmem(?:set|cpy|move)\b|\brep[a-z]*\s+(?:stos|movs)", code):
        return "a library call or string instruction stands for the loop"
    if re.search(r"\bv?movnt", code):
        return "its stores pass the caches by"
    return "" if loops(code, _STORE) else "no loop of vector stores"


def _triad_problem(code: str) -> str:
    problem = _store_problem(code)
    done = any(re.search(_STORE, loop, re.MULTILINE) for loop in loops(code, _step("pd")))
    return problem or ("" if done else "no loop of vector multiply-adds that stores them")


def _chase_problem(code: str) -> str:
    """A register that is loaded from an address with itself in it."""
    waits = r"mov\w*\s+\S*\(.*(%r\w+)\b.*\), \1$"
    return "" if re.search(waits, code, re.MULTILINE) else "no load waits for the load before"


def _update_problem(code: str) -> str:
    found = blocks(code)
    done = any(
        re.search(_step("ss"), block) and re.search(_SCALAR_STORE, block, re.MULTILINE) for block in found
    )
    return "" if done else "it does not change one weight at a time"


def _compaction_problem(code: str) -> str:
    if not re.search(r"\bv?u?comiss\b|\bv?cmp\w*[sp]s\b", code):
        return "it does not compare"
    return "" if re.search(_SCALAR_STORE, code, re.MULTILINE) else "it does not pack one value at a time"


def _touch_problem(code: str, kernel: str) -> str:
    operation = r"\badd\w*\s+\S*\(" if kernel == "gather" else r"\b(?:add|mov)\w*\s+%r\w+,.*\("
    return "" if re.search(operation, code, re.MULTILINE) else "it does not touch an element of each line"


def _fma_problem(code: str, itemsize: int) -> str:
    operation = _step(_PACKED[itemsize])
    found = loops(code, operation)
    if not found:
        return "no loop of vector multiply-adds"
    for loop in found:
        if len(re.findall(operation, loop)) % cpu_arithmetic.CHAINS:
            return "its chains were not all kept"
        if "(" in loop:
            return "its inner loop goes to memory"
    return ""


def _intensity_problem(code: str, itemsize: int, fma_per_element: int) -> str:
    suffix = _PACKED[itemsize]
    found = loops(code, _step(suffix))
    if not found:
        return "its loop over elements is not in vectors"
    for loop in found:
        steps = len(re.findall(_step(suffix), loop))
        additions = len(re.findall(rf"\bv?add{suffix}", loop)) - (0 if _fused() else steps)
        if steps != fma_per_element * additions:
            return f"{steps} multiply-adds to {additions} sums instead of {fma_per_element} to one"
    return ""


def _network_problem(kernel: str) -> str:
    code = assembly(getattr(cpu_network, kernel.replace("-", "_")), 4)
    multiplies = rf"{_step('ps')}|\bv?mulps"
    done = all(re.search(operation, code, re.MULTILINE) for operation in (multiplies, _STORE))
    return "" if done else "it does not multiply and store in vectors"


def _fused() -> bool:
    return bool(cpu_arithmetic.host_features().get("fma"))


def _step(suffix: str) -> str:
    """The instruction that multiplies in one multiply-add."""
    return rf"\bvfn?madd\d+{suffix}" if _fused() else rf"\bv?mul{suffix}"


def assembly(kernel: Any, itemsize: int) -> str:
    """Code of the version that was compiled for arrays of such elements."""
    signature = next(key for key in kernel.signatures if key[0].dtype.bitwidth == 8 * itemsize)
    return str(kernel.inspect_asm(signature))


def blocks(text: str) -> list[str]:
    """The code between two labels, comments and directives left out."""
    lines = [line.split("#")[0].rstrip() for line in text.splitlines()]
    code = "\n".join(line for line in lines if line and not re.match(r"\s+\.", line))
    return re.split(r"\n(?=\S+:)", code)


def loops(text: str, operation: str) -> list[str]:
    """Innermost loops with an operation: from a label to the jump back to it."""
    found = []
    for block in blocks(text):
        label = re.escape(block.split(":")[0])
        body = re.match(rf"{label}:(.*?)\bj\w+\s+{label}$", block, re.MULTILINE | re.DOTALL)
        if body and re.search(operation, body.group(1), re.MULTILINE):
            found.append(body.group(1))
    return found
