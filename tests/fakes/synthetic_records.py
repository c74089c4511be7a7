"""Records made by physics alone, without a simulator: E = Σ amount·cost, times noise, cut into quanta."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from calibration_data import CounterSpec, MemoryHierarchy, Work, domain_kind
from calibration_data.records import CalibrationRecord, CampaignId, DeviceFingerprint, Window
from calibration_data.terms import DRAM_TERMS

MEMORY = MemoryHierarchy(l1_bytes=32_768, l2_bytes=1 << 20, llc_bytes=1 << 24, line_bytes=64, cores=8)

TRUTH = {
    "idle_w": 20.0,
    "dram_idle_w": 3.0,
    "awake_w": 12.0,
    "core_w": 2.0,
    "flop_fp64": 30e-12,
    "flop_fp32": 16e-12,
    "byte_l1": 5e-12,
    "byte_l2": 12e-12,
    "byte_llc": 30e-12,
    "byte_dram_read": 180e-12,
    "byte_dram_write": 220e-12,
    "line_random_dram": 20e-9,
    "launch": 2e-6,
}

Level = Literal["l1", "l2", "llc", "dram"]


@dataclass(frozen=True)
class Point:
    """A configuration; ``rates`` are units per second while it is awake."""

    name: str
    family: str
    threads: int = 8
    level: Level | None = None
    duty: float = 1.0
    rates: Mapping[str, float] = field(default_factory=dict)


def path(level: Level, read: float, written: float = 0.0) -> dict[str, float]:
    """Bytes per second at every level that data from ``level`` passes."""
    rates = {"byte_l1": read + written}
    for passed in ("l2", "llc")[: ("l1", "l2", "llc", "dram").index(level)]:
        rates[f"byte_{passed}"] = read + written
    if level == "dram":
        rates |= {"byte_dram_read": read, "byte_dram_write": written}
    return rates


def _points() -> list[Point]:
    points = [Point("idle", "idle", threads=0)]
    points += [Point(f"spin-t{t}", "awake", t) for t in (1, 4, 8)]
    points += [Point("spin-t8-duty", "duty", 8, duty=0.5)]
    points += [Point("fma-duty", "duty", 8, duty=0.5, rates={"flop_fp32": 400e9})]
    for level, rate in (("l1", 60e9), ("l2", 40e9), ("llc", 20e9), ("dram", 4e9)):
        for t in (2, 8):
            points.append(Point(f"load-{level}-t{t}", "load", t, level, rates=path(level, t * rate)))
    for level, rate in (("llc", 16e9), ("dram", 2e9)):
        for t in (4, 8):
            points.append(
                Point(f"store-{level}-t{t}", "store", t, level, rates=path(level, t * rate, t * rate))
            )
    for t in (4, 8):
        points.append(Point(f"copy-t{t}", "copy", t, "dram", rates=path("dram", t * 2e9, t * 1e9)))
    for family, written in (("gather", 0.0), ("scatter", 1.0)):
        for t in (2, 8):
            lines = t * 25e6
            rates = path("dram", 64 * lines, 64 * lines * written) | {"line_random_dram": lines}
            points.append(Point(f"{family}-t{t}", family, t, "dram", rates=rates))
    for dtype, rate in (("fp32", 50e9), ("fp64", 25e9)):
        for t in (1, 8):
            points.append(Point(f"fma-{dtype}-t{t}", "fma", t, rates={f"flop_{dtype}": t * rate}))
        for level in ("l2", "dram"):
            rates = path(level, 2e10) | {f"flop_{dtype}": 4 * rate}
            points.append(Point(f"intensity-{level}-{dtype}", "intensity", 8, level, rates=rates))
    points += [Point(f"launch-t{t}", "launch", t, rates={"launch": t * 1e6}) for t in (1, 2, 8)]
    return points


POINTS: Sequence[Point] = tuple(_points())


def campaign(
    truth: Mapping[str, float] = TRUTH,
    *,
    points: Sequence[Point] = POINTS,
    domains: Sequence[str] = ("package-0", "dram-0"),
    noise: float = 0.01,
    configuration_noise: float = 0.0,
    quantum_j: float = 0.0,
    replicates: int = 3,
    window_s: float = 2.0,
    seed: int = 0,
    kind: Literal["cpu", "cuda", "simulated"] = "cpu",
    memory: MemoryHierarchy = MEMORY,
    gain: float = 1.0,
) -> list[CalibrationRecord]:
    """One record for each point of a device with known costs.

    Args:
        truth: joules per unit, or watts, by term.
        points: configurations.
        domains: where the joules are booked; DRAM terms on DRAM domains if there are any.
        noise: relative standard deviation of each window in each domain.
        configuration_noise: the same, shared by all windows of a configuration.
        quantum_j: counters show whole multiples of it.
        replicates: windows of each configuration.
        window_s: shortest window; they differ by up to 20 %.
        seed: of the noise.
        kind: of the device; ``simulated`` records have that provenance.
        memory: of the device.
        gain: what every counter shows of a joule.
    """
    # Durations have a stream of their own: the work is the same whatever domains and noise there are.
    design_rng, rng = np.random.default_rng((seed, 0)), np.random.default_rng((seed, 1))
    booked = _Booking(truth, tuple(domains), quantum_j, gain, rng)
    device = DeviceFingerprint(device="synthetic", kind=kind, model_name="synthetic", memory=memory)
    records = []
    for point in points:
        duration_s = window_s * design_rng.uniform(1.0, 1.2)
        active_s = duration_s * point.duty if point.threads else 0.0
        work = Work({name: rate * active_s for name, rate in point.rates.items()})
        shared = {domain: configuration_noise * rng.standard_normal() for domain in domains}
        windows = tuple(
            booked.window(work, duration_s, active_s, point.threads, noise, shared) for _ in range(replicates)
        )
        calm = {domain: configuration_noise * rng.standard_normal() for domain in domains}
        idle = [booked.window(Work(), 1.0, 0.0, 0, noise, calm) for _ in range(2)]
        records.append(
            CalibrationRecord(
                campaign=CampaignId(plan="quick", seed=seed, digest="synthetic"),
                point=point.name,
                family=point.family,
                threads=point.threads,
                level=point.level,
                working_set_bytes=None if point.level is None else 1 << 20,
                work_per_loop=dict(work.amounts),
                loops=1,
                replicates=windows,
                idle_before=idle[0],
                idle_after=idle[1],
                device=device,
                sensors=tuple(
                    CounterSpec(domain=d, interface="synthetic", source="physics") for d in domains
                ),
                software={"numpy": np.__version__},
                conditions={"governor": "performance"},
                provenance="simulated" if kind == "simulated" else "measured",
                created="2026-01-01T00:00:00+00:00",
            )
        )
    return records


@dataclass(frozen=True)
class _Booking:
    truth: Mapping[str, float]
    domains: tuple[str, ...]
    quantum_j: float
    gain: float
    rng: np.random.Generator

    def window(
        self,
        work: Work,
        duration_s: float,
        active_s: float,
        threads: int,
        noise: float,
        shared: Mapping[str, float],
    ) -> Window:
        full = work.over(duration_s=duration_s, active_s=active_s, busy_core_s=active_s * threads)
        true_j = self._true_j(full)
        shown = {
            domain: self._shown_j(energy * (1 + shared[domain] + noise * self.rng.standard_normal()))
            for domain, energy in true_j.items()
        }
        return Window(
            started_s=0.0,
            duration_s=duration_s,
            active_s=active_s,
            busy_core_s=active_s * threads,
            energy_j=shown,
            quantisation_u_j={domain: self.quantum_j / np.sqrt(6) for domain in self.domains},
        )

    def _true_j(self, work: Work) -> dict[str, float]:
        joules = {name: self.truth.get(name, 0.0) * amount for name, amount in work.items()}
        total_j = sum(joules.values())
        dram_j = sum(joules.get(name, 0.0) for name in DRAM_TERMS)
        kinds = [domain_kind(domain) for domain in self.domains]
        rest_j = total_j - dram_j if "dram" in kinds else total_j
        by_kind = {
            "dram": dram_j,
            "package": rest_j,
            "gpu": rest_j,
            "core": 0.6 * rest_j,
            "psys": 1.3 * total_j,
        }
        return {
            domain: by_kind[kind] / kinds.count(kind)
            for domain, kind in zip(self.domains, kinds, strict=True)
        }

    def _shown_j(self, energy_j: float) -> float:
        energy_j *= self.gain
        if self.quantum_j == 0:
            return float(energy_j)
        # Two reads at random phases of the quantum: the difference is uniform-rounded up or down.
        phase = self.rng.random()
        return float(np.floor(energy_j / self.quantum_j + phase) * self.quantum_j)
