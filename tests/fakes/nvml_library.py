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


NOT_SUPPORTED, NO_PERMISSION, DRIVER_NOT_LOADED, LIBRARY_NOT_FOUND, FUNCTION_NOT_FOUND = 3, 4, 9, 12, 13
GPU_IS_LOST, UNKNOWN = 15, 999


class FakeNvml:
    """The script of the library: which GPUs there are, what they draw, and what each call returns.

    Results are NVML return codes, 0 for success.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def script(self, *, gpus: int = 0, init_result: int = 0, count_result: int = 0) -> None:
        """Start a new script: every counter at 0, no power, every call successful but those named."""
        self._library.fake_script(init_result, count_result, gpus)

    def no_driver(self) -> None:
        self.script(init_result=DRIVER_NOT_LOADED)

    def set_results(self, index: int, *, handle_result: int = 0, energy_result: int = 0) -> None:
        self._library.fake_set_results(index, handle_result, energy_result)

    def set_power_result(self, index: int, *, power_result: int = 0, fields_result: int = 0) -> None:
        """Of nvmlDeviceGetPowerUsage, and of nvmlDeviceGetFieldValues as a whole."""
        self._library.fake_set_power_result(index, power_result, fields_result)

    def set_power(self, index: int, high_w: float, low_w: float = 0.0, period_s: float = 0.0) -> None:
        """Draw ``high_w``, or in turn ``high_w`` and ``low_w`` for half a period each."""
        self._library.fake_set_power(index, *map(ctypes.c_double, (high_w, low_w, period_s)))

    def set_sensor(
        self,
        index: int,
        *,
        update_period_s: float = 0.1,
        averaging_window_s: float = 0.1,
        gain: float = 1.0,
        noise: float = 0.0,
    ) -> None:
        values = (update_period_s, averaging_window_s, gain, noise)
        self._library.fake_set_sensor(index, *map(ctypes.c_double, values))

    def set_field(self, index: int, key: tuple[int, int], *, result: int = 0, share: float = 1.0) -> None:
        """Let a GPU have a field, or refuse it; a power field shows a share of the power."""
        self._library.fake_set_field(index, *key, result, ctypes.c_double(share))

    def set_state(
        self,
        index: int,
        *,
        mig: bool = False,
        virtualization: int = 0,
        clock_mhz: int = 1980,
        temperature_c: int = 45,
        limit_mw: int = 700_000,
        reasons: int = 0,
    ) -> None:
        self._library.fake_set_state(
            index, int(mig), virtualization, clock_mhz, temperature_c, limit_mw, ctypes.c_ulonglong(reasons)
        )

    def set_time_s(self, time_s: float) -> None:
        """Stop the machine's time; the GPUs' own begins here and goes on by the next calls."""
        self._library.fake_set_time_s(ctypes.c_double(time_s))

    def set_slow_s(self, seconds: float) -> None:
        """How long every read takes from here on."""
        self._library.fake_set_slow_s(ctypes.c_double(seconds))

    def spend(self, index: int, energy_mj: int) -> None:
        self._library.fake_spend(index, ctypes.c_ulonglong(energy_mj))

    @property
    def users(self) -> int:
        """Initialisations that have not been shut down."""
        return int(self._library.fake_users())

    @property
    def calls(self) -> int:
        """Reads of energy, power or fields since the script began."""
        return int(self._library.fake_calls())


@functools.cache
def load() -> FakeNvml:
    """Build the library once and load it by its full path.

    The dynamic linker then knows its name, so that pynvml's own load by that name finds this one.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, SONAME)
        command = [
            "cc",
            "-shared",
            "-fPIC",
            "-Wall",
            "-Werror",
            f"-Wl,-soname,{SONAME}",
            "-o",
            path,
            SOURCE,
            "-lm",
        ]
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
