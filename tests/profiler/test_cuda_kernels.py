"""GPU kernels by Triton's interpreter, on the CPU: what they read, write and compute, against numpy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHECKS = Path(__file__).with_name("cuda_kernel_checks.py")


@pytest.mark.parametrize(
    "check",
    [
        "load",
        "store",
        "copy",
        "triad",
        "gather",
        "scatter",
        "sparse_update",
        "fma",
        "fma_on_zeros",
        "dot",
        "intensity",
        "spin",
        "every_line",
    ],
)
def test_kernel_does_what_is_counted(check: str) -> None:
    """Each in a process of its own, for the interpreter is chosen when Triton is imported."""
    pytest.importorskip("triton")
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
    }
    result = subprocess.run(
        [sys.executable, str(CHECKS), check], env=environment, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr[-2000:]
