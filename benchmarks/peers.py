"""Energy meters side by side on the same emulated machines: error, overhead, and what each does with a fault.

The first machine has one socket (package 40 W, inside it DRAM as a zone of its own with 8 W more) and a psys
zone; its counters tick every millisecond in steps of 61 µJ and are driven by a compiled process
(powercap_driver.c). The second has a GPU whose counter ticks every 100 ms, behind a library that speaks
NVML's C interface. Every meter runs unmodified, in a process of its own, and finds the counters where Linux
has them: the tree lies on a private mount over /sys/class, so this needs root, unshare(1) and a C compiler,
and touches nothing outside.

    pip install zeus codecarbon pyJoules
    python benchmarks/peers.py
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path("/sys/class/powercap")
COMMANDS = Path("/sys/class/commands")
RANGE_UJ = 262_143_328_850
TICK_NS = 1_000_000
QUANTUM_UJ = 61
DRIVER = Path(__file__).with_name("powercap_driver.c")
POWER_W = {"intel-rapl:0": 40.0, "intel-rapl:0:0": 8.0, "intel-rapl:1": 60.0}
NAMES = {"intel-rapl:0": "package-0", "intel-rapl:0:0": "dram", "intel-rapl:1": "psys"}
TRUE_W = 48.0
GPU_HIGH_W, GPU_LOW_W = 450.0, 150.0
GPU_WAVE_S = 0.173
DURATIONS_S = (0.01, 0.05, 0.2, 1.0)
REPEATS = {0.01: 40, 0.05: 25, 0.2: 15, 1.0: 9}
METERS = ("calijoule", "zeus", "pyJoules", "codecarbon")
FAULTS = ("wrap", "failed read", "stuck", "reset")
GPU_FAULTS = ("GPU lost", "no energy counter")
FAULT_WINDOW_S = 0.5

Window = Callable[[Callable[[], None]], float | None]

refusals: list[str] = []
"""What our own meter said where it gave no number."""


def build_tree() -> None:
    """The kernel's layout: zones nested below the control type, and all of them flat beside it."""
    control = ROOT / "intel-rapl"
    control.mkdir(parents=True)
    (control / "subsystem").symlink_to(ROOT)
    (control / "enabled").write_text("1\n")
    for zone, name in NAMES.items():
        folder = control / "intel-rapl:0" / zone if zone.count(":") == 2 else control / zone
        folder.mkdir()
        (folder / "name").write_text(f"{name}\n")
        (folder / "enabled").write_text("1\n")
        (folder / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
        (folder / "energy_uj").write_text(f"{10**9:020d}\n")
        (ROOT / zone).symlink_to(folder.relative_to(ROOT))


def command(kind: str, seconds: float) -> None:
    with COMMANDS.open("w") as commands:
        commands.write(f"{kind} {seconds}\n")
    time.sleep(0.005)


def calijoule_window(gpu: bool) -> Window:
    from calibration_data import MeasurementError
    from profiler import EnergyMeter
    from profiler.sensors.nvml import NvmlSensor
    from profiler.sensors.powercap import PowercapSensor

    meter = EnergyMeter([NvmlSensor() if gpu else PowercapSensor()])

    def window(work: Callable[[], None]) -> float | None:
        try:
            with meter.window() as measured:
                work()
            return measured.reading.total_j
        except MeasurementError as error:
            refusals.append(f"refused: {error.message}")
            return None

    return window


def zeus_window(gpu: bool) -> Window:
    from zeus.monitor import ZeusMonitor

    monitor = ZeusMonitor(gpu_indices=None if gpu else [])

    def window(work: Callable[[], None]) -> float | None:
        monitor.begin_window("w", sync_execution=False)
        work()
        result = monitor.end_window("w", sync_execution=False)
        cpu = [*(result.cpu_energy or {}).values(), *(result.dram_energy or {}).values()]
        parts = list(result.gpu_energy.values()) if gpu else cpu
        return sum(parts) if parts else None

    return window


def pyjoules_window(gpu: bool) -> Window:
    from pyJoules.device.device_factory import DeviceFactory
    from pyJoules.device.nvidia_device import NvidiaGPUDomain
    from pyJoules.energy_meter import EnergyMeter

    devices = DeviceFactory.create_devices([NvidiaGPUDomain(0)] if gpu else None)
    meter = EnergyMeter(devices)
    # RAPL counts µJ, NVML mJ, and pyJoules leaves it at that.
    unit_j = 1e-3 if gpu else 1e-6

    def window(work: Callable[[], None]) -> float | None:
        meter.start()
        work()
        meter.stop()
        return sum(meter.get_trace()[0].energy.values()) * unit_j

    return window


def codecarbon_window(gpu: bool) -> Window:
    from codecarbon import OfflineEmissionsTracker

    tracker = OfflineEmissionsTracker(
        country_iso_code="FRA", save_to_file=False, log_level="critical", allow_multiple_runs=True
    )

    def window(work: Callable[[], None]) -> float | None:
        tracker.start_task("w")
        work()
        data = tracker.stop_task("w")
        return (data.gpu_energy if gpu else data.cpu_energy + data.ram_energy) * 3.6e6

    return window


WINDOWS = {
    "calijoule": calijoule_window,
    "zeus": zeus_window,
    "pyJoules": pyjoules_window,
    "codecarbon": codecarbon_window,
}


def cpu_j(begin_s: float, end_s: float) -> float:
    """Truth of the first machine."""
    return TRUE_W * (end_s - begin_s)


class Gpu:
    """The second machine's GPU: steady power, or a square wave."""

    def __init__(self) -> None:
        sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
        from fakes import nvml_library

        self._results = {
            "GPU lost": nvml_library.GPU_IS_LOST,
            "no energy counter": nvml_library.NOT_SUPPORTED,
        }
        self._nvml = nvml_library.load()
        self._nvml.script(gpus=1)
        self._start_s = time.monotonic()
        self._nvml.set_power(0, GPU_HIGH_W)
        self._wave = False

    def wave(self) -> None:
        """From here on a square wave."""
        self._nvml.set_power(0, GPU_HIGH_W, GPU_LOW_W, GPU_WAVE_S)
        self._wave = True

    def fail(self, fault: str) -> None:
        """From here on the counter answers with an error, or as before where the fault has no name."""
        self._nvml.set_results(0, energy_result=self._results.get(fault, 0))

    def energy_j(self, begin_s: float, end_s: float) -> float:
        """Truth between two moments."""
        return self._since_start_j(end_s) - self._since_start_j(begin_s)

    def _since_start_j(self, time_s: float) -> float:
        if not self._wave:
            return GPU_HIGH_W * (time_s - self._start_s)
        periods, rest_s = divmod(time_s - self._start_s, GPU_WAVE_S)
        half_s = GPU_WAVE_S / 2
        high_s = periods * half_s + min(rest_s, half_s)
        return GPU_HIGH_W * high_s + GPU_LOW_W * (time_s - self._start_s - high_s)


def run_meter(name: str, *, on_gpu: bool) -> dict[str, Any]:
    """Everything about one meter on one machine, in this process."""
    result: dict[str, Any] = {"meter": name}
    gpu = Gpu() if on_gpu else None
    windows = [WINDOWS[name](on_gpu)]

    def sleeping(
        seconds: float, half_way: Callable[[], None] = lambda: None
    ) -> tuple[float | None, float, float]:
        """Joules that the meter says, the true ones, and seconds spent in begin and end."""
        edges: list[float] = []

        def work() -> None:
            edges.append(time.monotonic())
            time.sleep(seconds / 2)
            half_way()
            time.sleep(seconds / 2)
            edges.append(time.monotonic())

        started = time.monotonic()
        joules = windows[-1](work)
        ended = time.monotonic()
        true_j = (gpu.energy_j if gpu else cpu_j)(*edges)
        return joules, true_j, ended - started - (edges[1] - edges[0])

    sleeping(0.05)
    for kind in ("steady", "wave") if gpu else ("steady",):
        if gpu and kind == "wave":
            gpu.wave()
            sleeping(1.0)
        for seconds in DURATIONS_S:
            found = []
            for repeat in range(REPEATS[seconds]):
                # Windows begin and end at any phase of the counter.
                time.sleep(0.037 * (repeat % 5))
                found.append(sleeping(seconds * (1 + 0.03 * (repeat % 10))))
            errors = [abs(joules / true_j - 1) for joules, true_j, _ in found if joules is not None]
            refused = len(found) - len(errors)
            remark = f" ({refused} of {len(found)} refused)" if refused else ""
            result[f"{kind} {seconds:g}"] = f"{100 * median(errors):.2f} %{remark}" if errors else "no number"
            result[f"overhead {kind} {seconds:g}"] = median(overhead for *_, overhead in found)
    if gpu is None:
        return result | {fault: under_fault(fault, sleeping) for fault in FAULTS}
    lost, without_counter = GPU_FAULTS
    result[lost] = what_it_says(lambda: sleeping(FAULT_WINDOW_S, lambda: gpu.fail(lost)))
    gpu.fail(without_counter)

    def a_new_meter() -> tuple[float | None, float, float]:
        windows.append(WINDOWS[name](on_gpu))
        return sleeping(FAULT_WINDOW_S)

    result[without_counter] = what_it_says(a_new_meter)
    return result


def under_fault(fault: str, sleeping: Callable[..., tuple[float | None, float, float]]) -> str:
    """What the meter says of a window in the middle of which something happens."""
    kind, seconds = {
        "wrap": ("wrap", 0.0),
        "failed read": ("garbled", 3.0),
        "stuck": ("stuck", 3.0),
        "reset": ("reset", 0.0),
    }[fault]
    if fault == "wrap":
        command(kind, seconds)
        time.sleep(0.05)
        said = what_it_says(lambda: sleeping(FAULT_WINDOW_S))
    else:
        said = what_it_says(lambda: sleeping(FAULT_WINDOW_S, lambda: command(kind, seconds)))
    time.sleep(3.2)
    return said


def what_it_says(window: Callable[[], tuple[float | None, float, float]]) -> str:
    try:
        joules, true_j, _ = window()
    except Exception as error:
        return type(error).__name__
    if joules is None:
        return refusals[-1] if refusals else "no number, no reason"
    return f"{joules:.5g} J ({100 * (joules / true_j - 1):+.3g} %)"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--meter", choices=METERS, help=argparse.SUPPRESS)
    parser.add_argument("--gpu", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.meter:
        # What a meter prints is not its result.
        with contextlib.redirect_stdout(io.StringIO()):
            result = run_meter(options.meter, on_gpu=options.gpu)
        print("RESULT", json.dumps(result))
    elif options.inside:
        print_table("one socket, ticks of 1 ms", measure_all(on_gpu=False), FAULTS)
        print_table("one GPU, ticks of 100 ms", measure_all(on_gpu=True), GPU_FAULTS)
    else:
        mount = "mount -t tmpfs tmpfs /sys/class && exec "
        inner = " ".join([sys.executable, os.path.abspath(__file__), "--inside"])
        sys.exit(subprocess.call(["unshare", "-m", "sh", "-c", mount + inner]))


@contextlib.contextmanager
def driven_tree() -> Iterator[None]:
    """The tree, and the process that drives its counters."""
    build_tree()
    os.mkfifo(COMMANDS)
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "powercap_driver")
        subprocess.run(["cc", "-O2", "-o", program, DRIVER], check=True)
        counters = [word for zone in NAMES for word in (str(ROOT / zone / "energy_uj"), str(POWER_W[zone]))]
        arguments = [str(value) for value in (TICK_NS, QUANTUM_UJ, RANGE_UJ)]
        # Open for both, so that it does not end with the first writer.
        commands = os.open(COMMANDS, os.O_RDWR)
        driver = subprocess.Popen([program, *arguments, *counters], stdin=commands)
        try:
            yield
        finally:
            driver.kill()
            driver.wait()
            os.close(commands)


def measure_all(*, on_gpu: bool) -> list[dict[str, Any]]:
    results = []
    with contextlib.nullcontext() if on_gpu else driven_tree():
        for meter in METERS:
            options = ["--meter", meter, *(["--gpu"] if on_gpu else [])]
            run = subprocess.run(
                [sys.executable, __file__, *options], capture_output=True, text=True, timeout=600
            )
            lines = [line for line in run.stdout.splitlines() if line.startswith("RESULT ")]
            reason = (run.stderr.strip().splitlines() or ["no result"])[-1]
            results.append(json.loads(lines[-1][7:]) if lines else {"meter": meter, "failed": reason})
    return results


def print_table(title: str, results: list[dict[str, Any]], faults: Sequence[str]) -> None:
    print(f"\n| {title} | " + " | ".join(result["meter"] for result in results) + " |")
    print("| --- |" + " --- |" * len(results))
    kinds = ("steady", "wave") if any("wave 1" in result for result in results) else ("steady",)
    for kind in kinds:
        for seconds in DURATIONS_S:
            cells = [shown(result, f"{kind} {seconds:g}", str) for result in results]
            print(f"| {kind}, {1000 * seconds:g} ms: median error | " + " | ".join(cells) + " |")
    for seconds in (0.01, 1.0):
        cells = [
            shown(result, f"overhead steady {seconds:g}", lambda value: f"{1000 * value:.2f} ms")
            for result in results
        ]
        print(f"| begin + end around {1000 * seconds:g} ms | " + " | ".join(cells) + " |")
    for fault in faults:
        print(f"| {fault} | " + " | ".join(shown(result, fault, str) for result in results) + " |")


def shown(result: dict[str, Any], key: str, form: Callable[[Any], str]) -> str:
    if "failed" in result:
        return f"failed: {result['failed'][:60]}"
    return "no number" if result.get(key) is None else form(result[key])


if __name__ == "__main__":
    main()
