"""Builds and loads the scripted NVML library, so that the real pynvml finds it as the driver's."""

from __future__ import annotations

import ctypes
import functools
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SONAME = "libnvidia-ml.so.1"
SOURCE = Path(__file__).with_name("nvml_library.c")


class FakeNvml:
    """The script of the library: which GPUs there are and what each call returns.

    Results are NVML return codes: 0 success, 3 not supported, 4 no permission, 9 driver not loaded,
    15 GPU is lost, 999 unknown.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def script(self, *, gpus: int = 0, init_result: int = 0, count_result: int = 0) -> None:
        """Start a new script: every counter at 0, every call successful but those named."""
        self._library.fake_script(init_result, count_result, gpus)

    def no_driver(self) -> None:
        self.script(init_result=9)

    def set_results(self, index: int, *, handle_result: int = 0, energy_result: int = 0) -> None:
        self._library.fake_set_results(index, handle_result, energy_result)

    def spend(self, index: int, energy_mj: int) -> None:
        self._library.fake_spend(index, ctypes.c_ulonglong(energy_mj))

    @property
    def users(self) -> int:
        """Initialisations that have not been shut down."""
        return int(self._library.fake_users())


@functools.cache
def load() -> FakeNvml:
    """Build the library once and load it by its full path.

    The dynamic linker then knows its name, so that pynvml's own load by that name finds this one.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, SONAME)
        command = ["cc", "-shared", "-fPIC", "-Wall", "-Werror", f"-Wl,-soname,{SONAME}", "-o", path, SOURCE]
        subprocess.run(command, check=True)
        return FakeNvml(ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL))


@contextmanager
def scripted_nvml() -> Iterator[FakeNvml]:
    """The library without a driver, before and after; in between a test writes the script."""
    nvml = load()
    nvml.no_driver()
    try:
        yield nvml
    finally:
        nvml.no_driver()
