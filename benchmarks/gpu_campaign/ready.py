"""Whether the campaign can run here, in seconds: what is missing is said before it costs a minute.

Each look stands alone, so that one which fails hides no other; all of them are written down.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Collection
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.gpu_campaign.settings import Settings, write_json
from calibration_data import UsageError

PACKAGES = {"torch": "torch", "triton": "triton", "numpy": "numpy", "scipy": "scipy", "numba": "numba"}
PACKAGES |= {"pydantic": "pydantic", "pynvml": "nvidia-ml-py"}
"""Modules and the packages that they come with."""
ONLY_ON_A_GPU = frozenset({"triton", "pynvml"})


def run(settings: Settings) -> None:
    """Look at everything, and write it down.

    Raises:
        UsageError: something is missing, with everything that is.
    """
    needed = PACKAGES.keys() - (ONLY_ON_A_GPU if settings.dry_run else frozenset())
    looks: dict[str, Callable[[], Any]] = {"packages": lambda: _packages(needed)}
    if not settings.dry_run:
        looks |= {"compiler": _compiler, "gpu": lambda: _gpu(settings.device_name)}
        looks |= {"kernel": lambda: _kernel(settings.device_name)}
    looks |= {"sensor": lambda: _sensor(settings.device_name), "selection": _selection}
    found: dict[str, Any] = {"python": sys.version}
    missing = {}
    for name, look in looks.items():
        try:
            found[name] = look()
        # Whatever a driver, a compiler or an import may raise is what this part is for.
        except Exception as error:
            missing[name] = f"{type(error).__name__}: {error}"
            print(f"{name}: {missing[name]}", flush=True)
    write_json(settings.file("ready.json"), {**found, "missing": missing})
    if missing:
        raise UsageError(
            f"Not ready: {', '.join(missing)}.", next_step="See ready.json; other parts may run without."
        )


def _packages(needed: Collection[str]) -> dict[str, str]:
    found, absent = {}, []
    for module in sorted(needed):
        package = PACKAGES[module]
        try:
            import_module(module)
            found[package] = version(package)
        # A package may be there and not fit another one: numba refuses a numpy that it does not know.
        except Exception as error:
            absent.append(f"{package} ({error})")
    if absent:
        raise UsageError(f"Not usable: {'; '.join(absent)}.", next_step="Carry wheels, as the README says.")
    return found


def _compiler() -> dict[str, str]:
    """Triton compiles the start of its kernels with a C compiler and Python's headers."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if compiler is None or not header.exists():
        raise UsageError(
            f"Triton needs a C compiler (found: {compiler}) and {header} ({'' if header.exists() else 'not '}"
            "there).",
            next_step="Take an image with gcc and Python's headers, or name a compiler in CC.",
        )
    return {"compiler": compiler, "headers": str(header.parent)}


def _gpu(device_name: str) -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(device_name)
    free, total = torch.cuda.mem_get_info(device_name)
    if free < 0.9 * total:
        print(f"gpu: only {free / 2**30:.0f} of {total / 2**30:.0f} GiB are free; somebody else may use it.")
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "l2_bytes": int(properties.L2_cache_size),
        "multiprocessors": int(properties.multi_processor_count),
        "free_bytes": free,
        "total_bytes": total,
    }


def _kernel(device_name: str) -> str:
    """One kernel of the selection, compiled, started and compared."""
    import torch

    from cwmp.selection.on_gpu import run_a_kernel

    run_a_kernel(torch.device(device_name))
    return "runs"


def _sensor(device_name: str) -> dict[str, Any]:
    from profiler.devices import open_device

    device = open_device(device_name)
    try:
        specs = [spec for sensor in device.sensors for spec in sensor.specs]
        return {
            "domains": {spec.domain: spec.kind for spec in specs},
            "notes": [note for sensor in device.sensors for note in getattr(sensor, "notes", ())],
            "conditions": device.conditions(),
        }
    finally:
        device.close()


def _selection() -> str:
    """The host's kernels compile: numba fits numpy here, and its folder can be written or done without."""
    import torch

    from cwmp.selection import select

    gradient = torch.arange(100, dtype=torch.float32)
    kept = select({"w": gradient}, {"w": 1.0}, 10.0, rule="cwmp").kept
    return f"kept {kept} of {gradient.numel()}"
