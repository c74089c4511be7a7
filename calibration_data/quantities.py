"""Frozen value types that cross package borders: work, windows, counters, memory.

Standard-library dataclasses only, so that measuring needs no heavy import.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import hypot, isfinite
from typing import Literal

from calibration_data.errors import MeasurementError
from calibration_data.terms import POWER_TERMS, TERMS

Provenance = Literal["measured", "inferred", "simulated", "literature"]
"""Where a joule comes from. Never upgraded on the way: simulated in, simulated out."""

_PLACES = {name: place for place, name in enumerate(TERMS)}
_TOTAL_KINDS = frozenset({"package", "dram", "gpu"})


def domain_kind(domain: str) -> str:
    """Kind of a domain: ``"package-0-die-1"`` → ``"package"``, ``"dram-0"`` → ``"dram"``."""
    return domain.split("-", 1)[0]


def total_domains(domains: Iterable[str]) -> tuple[str, ...]:
    """The domains whose sum is a device's total: packages, DRAM and GPUs, each once.

    ``core`` and ``uncore`` are inside their package; ``psys`` contains package and DRAM.
    """
    return tuple(domain for domain in domains if domain_kind(domain) in _TOTAL_KINDS)


@dataclass(frozen=True)
class Work(Mapping[str, float]):
    """Exact amounts of work by term name: FLOP, bytes, lines, launches, and seconds for power terms.

    An absent term is an amount of zero. Works add, and scale by a number.

    Raises:
        ValueError: a name is no term of the model, or an amount is negative or not finite.
    """

    amounts: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, amount in self.amounts.items():
            if name not in TERMS:
                raise ValueError(f"{name!r} is not a term of the energy model")
            if not (isfinite(amount) and amount >= 0):
                raise ValueError(f"the amount of {name} must be finite and not negative, got {amount}")
        named = [name for name, amount in self.amounts.items() if amount]
        named.sort(key=_PLACES.__getitem__)
        object.__setattr__(self, "amounts", {name: float(self.amounts[name]) for name in named})

    def __getitem__(self, name: str) -> float:
        if name not in TERMS:
            raise KeyError(name)
        return self.amounts.get(name, 0.0)

    def __iter__(self) -> Iterator[str]:
        return iter(self.amounts)

    def __len__(self) -> int:
        return len(self.amounts)

    def __add__(self, other: Work) -> Work:
        own, added = self.amounts, other.amounts
        if not own.keys() >= added.keys():
            if not own:
                return other
            names = sorted(own.keys() | added.keys(), key=_PLACES.__getitem__)
            return Work.in_order({name: own.get(name, 0.0) + added.get(name, 0.0) for name in names})
        return Work.in_order({name: amount + added.get(name, 0.0) for name, amount in own.items()})

    def __mul__(self, factor: float) -> Work:
        if not factor > 0:
            return Work({name: amount * factor for name, amount in self.amounts.items()})
        return Work.in_order({name: amount * factor for name, amount in self.amounts.items()})

    __rmul__ = __mul__

    def over(self, *, duration_s: float, active_s: float, busy_core_s: float) -> Work:
        """The same work with the times of the window in which it ran."""
        times = {
            "idle_w": duration_s,
            "dram_idle_w": duration_s,
            "awake_w": active_s,
            "core_w": busy_core_s,
        }
        return self.without_times() + Work(times)

    def without_times(self) -> Work:
        """The operations alone, without the seconds of the power terms."""
        return Work.in_order(
            {name: amount for name, amount in self.amounts.items() if name not in POWER_TERMS}
        )

    @classmethod
    def in_order(cls, amounts: dict[str, float]) -> Work:
        """Work of known terms in their order, whose amounts may have become infinite or vanished."""
        if not (isfinite(sum(amounts.values())) and all(amounts.values())):
            return cls(amounts)
        work = object.__new__(cls)
        object.__setattr__(work, "amounts", amounts)
        return work


@dataclass(frozen=True, kw_only=True)
class CounterSpec:
    """What one domain of a sensor can tell.

    Attributes:
        domain: ``package-0``, ``dram-0``, ``core-0``, ``uncore-0``, ``psys``, ``gpu-0``.
        kind: ``counter`` (cumulative energy) or ``power`` (samples in watts).
        interface: ``perf``, ``powercap``, ``pyjoules``, ``nvml``, ``hwmon`` or ``simulated``.
        source: file or call that is read.
        resolution_uj: smallest step of the counter, in µJ; None if unknown.
        range_uj: the counter starts again at 0 when it reaches this, in µJ; None if it never wraps.
        update_period_s: time between two updates of the counter; None if unknown.
        averaging_window_s: time over which a power sample averages; None for counters.
        excludes: what a reader might think is in it and is not.
    """

    domain: str
    kind: Literal["counter", "power"] = "counter"
    interface: str
    source: str
    resolution_uj: float | None = None
    range_uj: int | None = None
    update_period_s: float | None = None
    averaging_window_s: float | None = None
    excludes: str = ""


WindowFlag = Literal["short", "unmoved", "power changed", "slow read", "stuck"]
"""What a reader of a window must know about one of its domains."""

FLAG_MEANING: Mapping[WindowFlag, str] = {
    "short": "the window is shorter than the counter's update period",
    "unmoved": "the counter did not move",
    "power changed": "the power changed about the edges of the window, so its share of a tick is uncertain",
    "slow read": "reading the counter took long against its update period",
    "stuck": "the counter should have moved and did not; its joules are no measurement",
}

NORMAL_COVERAGE_FACTOR = 1.96
"""k of a 95 % interval from a normal distribution (GUM table G.1)."""


def says_nothing(flags: Collection[str]) -> bool:
    """Whether a counter's reading is no number of joules: it stood still where it should have moved.

    Zero joules of a counter that had time to tick are a reading; of one that had not they are none.
    """
    return "stuck" in flags or {"short", "unmoved"} <= set(flags)


@dataclass(frozen=True, kw_only=True)
class WindowReading:
    """Joules of one measurement window.

    The terms of the uncertainty stay apart, since repetition makes the first two smaller and never the
    third; ``standard_uncertainty_j`` and ``interval_j`` combine them for reports.

    Attributes:
        duration_s: time between the two edges, not the intended time.
        energy_j: gross joules by domain.
        quantisation_u_j: standard uncertainty by domain from the counter's ticks, their times and its
            resolution.
        repeatability_u_j: standard uncertainty by domain from the scatter of repeated windows; empty for a
            single window.
        gain_u_rel: relative standard uncertainty of the sensor's gain by domain; empty if nobody gave one.
        flags: what to know, by domain.
    """

    duration_s: float
    energy_j: Mapping[str, float]
    quantisation_u_j: Mapping[str, float] = field(default_factory=dict)
    repeatability_u_j: Mapping[str, float] = field(default_factory=dict)
    gain_u_rel: Mapping[str, float] = field(default_factory=dict)
    flags: Mapping[str, tuple[WindowFlag, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (isfinite(self.duration_s) and self.duration_s > 0):
            raise ValueError(f"a window must have a positive duration, got {self.duration_s}")

    @property
    def total_j(self) -> float:
        """Joules of the total: packages + DRAM + GPUs.

        Raises:
            MeasurementError: a counter of the total was stuck, or did not move in a window that is shorter
                than its update period.
        """
        flags = {domain: set(self.flags.get(domain, ())) for domain in total_domains(self.energy_j)}
        if stuck := [domain for domain, found in flags.items() if "stuck" in found]:
            raise MeasurementError(
                f"There is no total: {', '.join(stuck)} did not move.",
                next_step="Check the sensor with: calijoule devices.",
            )
        if unmoved := [domain for domain, found in flags.items() if says_nothing(found)]:
            raise MeasurementError(
                f"There is no total: {', '.join(unmoved)} did not move in {self.duration_s:.3g} s, which is"
                " shorter than its update period.",
                next_step="Measure for longer, or repeat with profiler.repeat.measure_repeated.",
            )
        return sum(self.energy_j[domain] for domain in total_domains(self.energy_j))

    def standard_uncertainty_j(self, domain: str) -> float:
        """All terms of one domain in quadrature (GUM 5.1.2)."""
        return hypot(
            self.quantisation_u_j.get(domain, 0.0),
            self.repeatability_u_j.get(domain, 0.0),
            self.gain_u_rel.get(domain, 0.0) * self.energy_j[domain],
        )

    def interval_j(
        self, domain: str, *, coverage_factor: float = NORMAL_COVERAGE_FACTOR
    ) -> tuple[float, float]:
        """Interval of one domain that contains its joules with about 95 % (k = 1.96); never below 0."""
        half_j = coverage_factor * self.standard_uncertainty_j(domain)
        return max(0.0, self.energy_j[domain] - half_j), self.energy_j[domain] + half_j


_MAX_CACHE_BYTES, _MAX_CORES = 2**45, 2**20
"""Far above any device, and small enough for every later product."""


@dataclass(frozen=True, kw_only=True)
class MemoryHierarchy:
    """Sizes of the levels that data passes on its way to a core.

    Attributes:
        l1_bytes: data cache of one core.
        l2_bytes: second level; of one core on a CPU, of the whole device on a GPU.
        llc_bytes: shared last level; None where the second level is the last.
        line_bytes: unit of transfer: 64 B lines on CPUs, 32 B sectors on GPUs.
        cores: cores (CPU) or multiprocessors (GPU) that can be busy at the same time.
    """

    l1_bytes: int
    l2_bytes: int
    llc_bytes: int | None
    line_bytes: int
    cores: int

    def __post_init__(self) -> None:
        sizes = [self.l1_bytes, self.l2_bytes] + ([] if self.llc_bytes is None else [self.llc_bytes])
        if min(sizes) <= 0 or sizes != sorted(sizes):
            raise ValueError(f"cache sizes must be positive and grow from level to level, got {sizes}")
        if self.line_bytes <= 0 or self.cores <= 0:
            raise ValueError("line_bytes and cores must be positive")
        if max(sizes) > _MAX_CACHE_BYTES or self.line_bytes > sizes[0] or self.cores > _MAX_CORES:
            raise ValueError("no device has such caches, lines or cores")

    @property
    def levels(self) -> tuple[str, ...]:
        """Names of the levels from the core outwards, ending in ``dram``."""
        return ("l1", "l2", "dram") if self.llc_bytes is None else ("l1", "l2", "llc", "dram")

    @property
    def last_cache_bytes(self) -> int:
        """Size of the last cache before DRAM."""
        return self.l2_bytes if self.llc_bytes is None else self.llc_bytes
