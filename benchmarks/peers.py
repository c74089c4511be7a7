"""Energy meters side by side on the same emulated machine: error, overhead, and what each does with a fault.

The machine has one socket (package 40 W, inside it DRAM as a zone of its own with 8 W more) and a psys
zone; its counters tick every millisecond in steps of 61 µJ and are driven by a process of their own. Every
meter runs unmodified, in a process of its own, and finds the counters where Linux has them: the tree lies on
a private mount over /sys/class, so this needs root and unshare(1), and touches nothing outside.

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
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path("/sys/class/powercap")
CONTROL = Path("/sys/class/control")
RANGE_UJ = 262_143_328_850
QUANTUM_UJ = 61
POWER_W = {"intel-rapl:0": 40.0, "intel-rapl:0:0": 8.0, "intel-rapl:1": 60.0}
NAMES = {"intel-rapl:0": "package-0", "intel-rapl:0:0": "dram", "intel-rapl:1": "psys"}
TRUE_W = 48.0
DURATIONS_S = (0.01, 0.05, 0.2, 1.0)
REPEATS = {0.01: 40, 0.05: 25, 0.2: 10, 1.0: 5}
METERS = ("calijoule", "zeus", "pyJoules", "codecarbon")
FAULTS = ("wrap", "failed read", "stuck", "reset")
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


def drive() -> None:
    """Move the counters each millisecond until the tree goes away; obey the commands in the control file."""
    files = {zone: os.open(ROOT / zone / "energy_uj", os.O_WRONLY) for zone in NAMES}
    base_uj = dict.fromkeys(NAMES, 10**9)
    origin, seen, fault, until = time.monotonic(), "", "", 0.0
    while True:
        now = time.monotonic()
        command = CONTROL.read_text() if CONTROL.exists() else ""
        if command != seen:
            seen, (kind, seconds) = command, command.split()[:2]
            fault, until = kind, now + float(seconds)
            if kind in ("wrap", "reset"):
                # 10 J before the range is full; or back to almost nothing.
                elapsed_uj = POWER_W["intel-rapl:0"] * (now - origin) * 1e6
                target_uj = RANGE_UJ - 10_000_000 if kind == "wrap" else 5_000_000
                base_uj["intel-rapl:0"] = int(target_uj - elapsed_uj) % RANGE_UJ
        tick_s = int((now - origin) * 1000) / 1000
        for zone, file in files.items():
            if now < until and zone == "intel-rapl:0" and fault == "stuck":
                continue
            uj = int(base_uj[zone] + POWER_W[zone] * tick_s * 1e6) % RANGE_UJ
            text = f"{uj // QUANTUM_UJ * QUANTUM_UJ:020d}\n"
            if now < until and zone == "intel-rapl:0" and fault == "failed":
                text = "garbage".ljust(20) + "\n"
            os.pwrite(file, text.encode(), 0)
        time.sleep(max(0.0, 0.001 - (time.monotonic() - now)))


def command(kind: str, seconds: float) -> None:
    temporary = CONTROL.with_suffix(".new")
    temporary.write_text(f"{kind} {seconds} {time.monotonic_ns()}")
    temporary.rename(CONTROL)
    time.sleep(0.005)


def calijoule_window() -> Window:
    from calibration_data import MeasurementError
    from profiler import EnergyMeter
    from profiler.sensors import open_sensors

    meter = EnergyMeter(open_sensors())

    def window(work: Callable[[], None]) -> float | None:
        try:
            with meter.window() as measured:
                work()
            return measured.reading.total_j
        except MeasurementError as error:
            refusals.append(f"refused: {error.message}")
            return None

    return window


def zeus_window() -> Window:
    from zeus.monitor import ZeusMonitor

    monitor = ZeusMonitor(gpu_indices=[])

    def window(work: Callable[[], None]) -> float | None:
        monitor.begin_window("w")
        work()
        result = monitor.end_window("w")
        parts = [*(result.cpu_energy or {}).values(), *(result.dram_energy or {}).values()]
        return sum(parts) if parts else None

    return window


def pyjoules_window() -> Window:
    from pyJoules.device.device_factory import DeviceFactory
    from pyJoules.energy_meter import EnergyMeter

    meter = EnergyMeter(DeviceFactory.create_devices())

    def window(work: Callable[[], None]) -> float | None:
        meter.start()
        work()
        meter.stop()
        return sum(meter.get_trace()[0].energy.values()) / 1e6

    return window


def codecarbon_window() -> Window:
    from codecarbon import OfflineEmissionsTracker

    tracker = OfflineEmissionsTracker(
        country_iso_code="FRA", save_to_file=False, log_level="critical", allow_multiple_runs=True
    )

    def window(work: Callable[[], None]) -> float | None:
        tracker.start_task("w")
        work()
        data = tracker.stop_task("w")
        return (data.cpu_energy + data.ram_energy) * 3.6e6

    return window


WINDOWS = {
    "calijoule": calijoule_window,
    "zeus": zeus_window,
    "pyJoules": pyjoules_window,
    "codecarbon": codecarbon_window,
}


def run_meter(name: str) -> dict[str, Any]:
    """Everything about one meter, in this process."""
    result: dict[str, Any] = {"meter": name}
    window = WINDOWS[name]()

    def sleeping(
        seconds: float, half_way: Callable[[], None] = lambda: None
    ) -> tuple[float | None, float, float]:
        """Joules that the meter says, seconds of the work, and seconds spent in begin and end."""
        edges: list[float] = []

        def work() -> None:
            edges.append(time.monotonic())
            time.sleep(seconds / 2)
            half_way()
            time.sleep(seconds / 2)
            edges.append(time.monotonic())

        started = time.monotonic()
        joules = window(work)
        inside = edges[1] - edges[0]
        return joules, inside, time.monotonic() - started - inside

    sleeping(0.05)
    for seconds in DURATIONS_S:
        found = [sleeping(seconds) for _ in range(REPEATS[seconds])]
        errors = [abs(joules / (TRUE_W * inside) - 1) for joules, inside, _ in found if joules is not None]
        refused = len(found) - len(errors)
        remark = f" ({refused} of {len(found)} refused)" if refused else ""
        result[f"{seconds:g}"] = f"{100 * median(errors):.2f} %{remark}" if errors else "no number"
        result[f"overhead {seconds:g}"] = median(overhead for *_, overhead in found)
    for fault in FAULTS:
        result[fault] = under_fault(fault, sleeping)
    return result


def under_fault(fault: str, sleeping: Callable[..., tuple[float | None, float, float]]) -> str:
    """What the meter says of a window in the middle of which something happens; the truth is about 24 J."""
    kind, seconds = {
        "wrap": ("wrap", 0.0),
        "failed read": ("failed", 3.0),
        "stuck": ("stuck", 3.0),
        "reset": ("reset", 0.0),
    }[fault]
    try:
        if fault == "wrap":
            command(kind, seconds)
            joules, inside, _ = sleeping(FAULT_WINDOW_S)
        else:
            joules, inside, _ = sleeping(FAULT_WINDOW_S, lambda: command(kind, seconds))
    except Exception as error:
        return f"{type(error).__name__}"
    finally:
        time.sleep(3.2)
    if joules is None:
        return refusals[-1] if refusals else "no number, no reason"
    return f"{joules:.5g} J ({100 * (joules / (TRUE_W * inside) - 1):+.3g} %)"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--drive", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--meter", choices=METERS, help=argparse.SUPPRESS)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        drive()
    elif options.meter:
        # What a meter prints is not its result.
        with contextlib.redirect_stdout(io.StringIO()):
            result = run_meter(options.meter)
        print("RESULT", json.dumps(result))
    elif options.inside:
        print_table(measure_all())
    else:
        mount = "mount -t tmpfs tmpfs /sys/class && exec "
        inner = " ".join([sys.executable, os.path.abspath(__file__), "--inside"])
        sys.exit(subprocess.call(["unshare", "-m", "sh", "-c", mount + inner]))


def measure_all() -> list[dict[str, Any]]:
    build_tree()
    driver = subprocess.Popen([sys.executable, __file__, "--drive"])
    results = []
    try:
        for meter in METERS:
            run = subprocess.run(
                [sys.executable, __file__, "--meter", meter], capture_output=True, text=True, timeout=300
            )
            lines = [line for line in run.stdout.splitlines() if line.startswith("RESULT ")]
            reason = (run.stderr.strip().splitlines() or ["no result"])[-1]
            results.append(json.loads(lines[-1][7:]) if lines else {"meter": meter, "failed": reason})
    finally:
        driver.kill()
    return results


def print_table(results: list[dict[str, Any]]) -> None:
    columns = [result["meter"] for result in results]
    print("| | " + " | ".join(columns) + " |")
    print("| --- |" + " --- |" * len(columns))
    for seconds in DURATIONS_S:
        cells = [shown(result, f"{seconds:g}", str) for result in results]
        print(f"| median error of {1000 * seconds:g} ms windows | " + " | ".join(cells) + " |")
    for seconds in (0.01, 1.0):
        cells = [
            shown(result, f"overhead {seconds:g}", lambda value: f"{1000 * value:.2f} ms")
            for result in results
        ]
        print(f"| begin + end around {1000 * seconds:g} ms | " + " | ".join(cells) + " |")
    for fault in FAULTS:
        print(f"| {fault}; the truth is 24 J | " + " | ".join(shown(r, fault, str) for r in results) + " |")


def shown(result: dict[str, Any], key: str, form: Callable[[Any], str]) -> str:
    if "failed" in result:
        return f"failed: {result['failed'][:60]}"
    return "no number" if result.get(key) is None else form(result[key])


if __name__ == "__main__":
    main()
