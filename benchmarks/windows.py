"""How right windows are, against counters of known power.

    python benchmarks/windows.py [--windows N] [--seed S]

Counters are drawn at random (power, tick, jitter, phase, offset) and driven in virtual time that every read
and every sleep moves by a realistic amount; the meter is the one that users have. For each case the table
shows the median of |error|, the part of 95 % intervals that contain the truth, and the time that begin and
end took. The last table is taken on this machine's clock: the same counters, computed when they are read.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from profiler.clock import Clock, MonotonicClock
from profiler.meter import Align, EnergyMeter

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from fakes.driven_counters import (
    DrivenCounter,
    DrivenSensor,
    Power,
    ReadingClock,
    SquareWave,
    Steady,
)

WINDOWS_PER_METER = 10
WAVE_S = 0.173
RAPL_READ_S = 10e-6
NVML_READ_S = 12e-6


@dataclass(frozen=True, kw_only=True)
class Case:
    sensor: str
    power: str
    duration_s: float
    align: Align = "auto"
    target: float | None = None
    averaging_s: float | None = None


@dataclass
class Figures:
    errors: list[float] = field(default_factory=list)
    covered: list[bool] = field(default_factory=list)
    widths: list[float] = field(default_factory=list)
    edges_s: list[float] = field(default_factory=list)


RAPL_TARGETS = {0.01: 0.005, 0.02: None, 0.05: 0.001, 0.1: 0.001, 0.5: 0.001}
NVML_STEADY_TARGETS = {0.01: 0.01, 0.05: 0.01, 0.1: 0.01, 0.2: 0.01, 1.0: 0.002, 3.0: 0.002}
NVML_WAVE_TARGETS = {0.01: None, 0.05: None, 0.1: None, 0.2: None, 1.0: 0.05, 3.0: 0.05}

CASES = [
    *(
        Case(sensor="rapl", power=power, duration_s=duration_s, target=target)
        for power in ("steady", "square")
        for duration_s, target in RAPL_TARGETS.items()
    ),
    *(
        Case(sensor="nvml", power="steady", duration_s=duration_s, target=target)
        for duration_s, target in NVML_STEADY_TARGETS.items()
    ),
    *(
        Case(sensor="nvml", power="square", duration_s=duration_s, target=target)
        for duration_s, target in NVML_WAVE_TARGETS.items()
    ),
    *(
        Case(sensor="nvml", power="square", duration_s=duration_s, averaging_s=0.025)
        for duration_s in (0.2, 1.0, 3.0)
    ),
    *(
        Case(sensor=sensor, power="steady", duration_s=duration_s, align="never")
        for sensor, duration_s in (("rapl", 0.01), ("rapl", 0.1), ("nvml", 0.1), ("nvml", 1.0))
    ),
]


def draw_power(case: Case, rng: random.Random) -> Power:
    low_w = rng.uniform(20, 150)
    if case.power == "steady":
        return Steady(low_w)
    return SquareWave(low_w * rng.uniform(1.5, 5), low_w, WAVE_S, rng.uniform(0, WAVE_S))


def draw_sensor(case: Case, rng: random.Random, clock: Clock) -> DrivenSensor:
    jitter = rng.uniform(0, 0.05)
    if case.sensor == "nvml":
        counter = DrivenCounter(
            draw_power(case, rng),
            tick_s=0.1 * rng.uniform(0.9, 1.1),
            jitter=jitter,
            phase=rng.random(),
            quantum_uj=1000.0,
            range_uj=None,
            offset_uj=rng.randrange(10**12),
            averaging_s=case.averaging_s,
            seed=rng.randrange(2**32),
        )
        return DrivenSensor({"gpu-0": counter}, clock, read_s=NVML_READ_S, nominal_s=0.1)
    # The zones of a socket tick together; their order within a read differs.
    phase, seed = rng.random(), rng.randrange(2**32)
    counters = {
        domain: DrivenCounter(
            draw_power(case, rng),
            jitter=jitter,
            phase=phase,
            offset_uj=rng.randrange(262_143_328_850),
            seed=seed,
        )
        for domain in ("package-0", "core-0", "dram-0")
    }
    return DrivenSensor(counters, clock, read_s=RAPL_READ_S)


def run_windows(case: Case, clock: Clock, rng: random.Random, figures: Figures, count: int) -> None:
    """Some windows of one meter on one drawn machine."""
    sensor = draw_sensor(case, rng, clock)
    with EnergyMeter([sensor], clock=clock, align=case.align) as meter:
        for _ in range(count):
            clock.sleep(rng.uniform(0, 0.4))
            called_ns = clock.now_ns()
            meter.begin("window")
            begin_ns = clock.now_ns()
            clock.sleep(case.duration_s * rng.uniform(1, 1.1))
            end_ns = clock.now_ns()
            reading = meter.end("window")
            figures.edges_s.append((clock.now_ns() - called_ns - (end_ns - begin_ns)) * 1e-9)
            for domain, counter in sensor.counters.items():
                true_j = counter.power.energy_j(end_ns * 1e-9) - counter.power.energy_j(begin_ns * 1e-9)
                low_j, high_j = reading.interval_j(domain)
                figures.errors.append(abs(reading.energy_j[domain] / true_j - 1))
                figures.covered.append(low_j <= true_j <= high_j)
                figures.widths.append((high_j - low_j) / 2 / true_j)


def measured(case: Case, windows: int, seed: int, make_clock: Callable[[], Clock]) -> Figures:
    rng = random.Random(f"{case}/{seed}")
    figures = Figures()
    while len(figures.edges_s) < windows:
        run_windows(case, make_clock(), rng, figures, min(windows, WINDOWS_PER_METER))
    return figures


def table_of(title: str, rows: list[tuple[Case, Figures]]) -> Table:
    table = Table(
        "sensor", "power", "sees", "window", "align", "median |error|", "target", "U, median", "coverage",
        "begin + end, median", "mean", title=title,
    )  # fmt: skip
    for case, figures in rows:
        error = statistics.median(figures.errors)
        missed = case.target is not None and error > case.target
        table.add_row(
            case.sensor,
            case.power,
            "" if case.averaging_s is None else f"last {case.averaging_s * 1e3:.0f} ms",
            f"{case.duration_s * 1e3:.0f} ms",
            case.align,
            f"{error:.3%}" + (" MISSED" if missed else ""),
            "" if case.target is None else f"{case.target:.1%}",
            f"{statistics.median(figures.widths):.2%}",
            f"{statistics.fmean(figures.covered):.1%}",
            f"{statistics.median(figures.edges_s) * 1e3:.3f} ms",
            f"{statistics.fmean(figures.edges_s) * 1e3:.3f} ms",
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--windows", type=int, default=300, help="windows of each case")
    parser.add_argument("--real-windows", type=int, default=10, help="windows of each case in real time")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    console = Console(width=150)
    started_s = time.monotonic()
    virtual = [(case, measured(case, options.windows, options.seed, ReadingClock)) for case in CASES]
    console.print(table_of(f"{options.windows} windows a case, virtual time", virtual))
    clocked = [
        Case(sensor=sensor, power="steady", duration_s=duration_s, align=align, target=target)
        for sensor, duration_s, align, target in (
            ("rapl", 0.01, "auto", 0.005), ("rapl", 0.05, "auto", 0.001), ("rapl", 0.01, "never", None),
            ("nvml", 0.01, "auto", 0.01), ("nvml", 0.2, "auto", 0.01), ("nvml", 0.2, "never", None),
        )
    ]  # fmt: skip
    real = [(case, measured(case, options.real_windows, options.seed, MonotonicClock)) for case in clocked]
    console.print(table_of(f"{options.real_windows} windows a case, this machine's clock", real))
    console.print(f"{time.monotonic() - started_s:.0f} s")


if __name__ == "__main__":
    main()
