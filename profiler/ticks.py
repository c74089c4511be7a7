"""Ticks of the counters: waiting for them, and finding out how they come.

No wait is endless: a counter that does not move in two of its update periods is stuck or idle, which the
caller is told.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import reduce
from itertools import pairwise
from math import gcd, sqrt

from calibration_data import total_domains
from profiler.clock import Clock
from profiler.counters import Counters, Tick, TickTiming, patience_s

LONGEST_WAIT_PERIODS = 2.0
"""A counter that does not move in this many update periods is not waited for any longer."""

MIN_TICKS = 8
MIN_DISCOVERY_S = 0.02
SILENCE_S = 0.12
"""A counter that has not ticked for so long, and for three of its periods, is taken to be idle."""

LONGEST_DISCOVERY_S = 2.5

MANY_PERIODS = 300
"""A counter of which too few ticks have been seen closely in so many of its periods is given up."""

SPIN_BELOW_S = 0.005
"""Ticks that come faster are watched without a pause between reads; sleeping takes too long."""

POLLS_PER_PERIOD = 500
"""Reads in an update period while a slow counter is watched: a tick is then known to 0.2 % of it."""

KNOWN_STEPS_UJ = (1e6 / 2**14, 1e6 / 2**16)
"""Energy units of RAPL counters: 2⁻¹⁴ J is the default, 2⁻¹⁶ J that of server DRAM and AMD parts (Intel SDM
vol. 3B, RAPL interfaces). The kernel rounds them to whole microjoules."""


def leading_domains(domains: Iterable[str]) -> tuple[str, ...]:
    """The domains whose ticks decide: those of the total; all, if none of these is there."""
    names = tuple(domains)
    return total_domains(names) or names


def wait_for_ticks(counters: Counters, clock: Clock, domains: Iterable[str]) -> dict[str, list[Tick]]:
    """Read until each of some counters has moved, or has had two update periods (50 ms at least) to do so.

    Returns:
        The ticks that were seen, in order, of every counter that moved, whether it was waited for or not.

    Raises:
        MeasurementError: a reading failed or cannot be trusted.
    """
    waiting = set(domains)
    if not waiting:
        return {}
    watch = _Watch(counters, clock, waiting)
    while waiting:
        elapsed_s = watch.read()
        waiting = {
            domain
            for domain in waiting
            if domain not in watch.seen
            and elapsed_s < patience_s(counters.timing[domain].period_s, LONGEST_WAIT_PERIODS)
        }
    return watch.seen


def discover_ticks(counters: Counters, clock: Clock) -> None:
    """Watch the counters for some ticks and note how they come in ``counters.timing``.

    A counter that does not tick keeps the timing of its spec. Takes eight ticks of the slowest leading
    counter or 20 ms, whichever is longer, and never more than 2.5 s.

    Raises:
        MeasurementError: a reading failed or cannot be trusted.
    """
    counters.read()
    watch = _Watch(counters, clock, leading_domains(counters.specs))
    elapsed_s = 0.0
    while elapsed_s < MIN_DISCOVERY_S or not all(
        _enough(watch.seen.get(domain, ()), elapsed_s / counters.timing[domain].period_s)
        or (domain not in watch.seen and elapsed_s > max(SILENCE_S, 3 * counters.timing[domain].period_s))
        for domain in watch.domains
    ):
        elapsed_s = watch.read()
        if elapsed_s > LONGEST_DISCOVERY_S:
            break
    for domain, ticks in watch.seen.items():
        timing = timing_of(ticks)
        if timing is not None:
            window_s = counters.specs[domain].averaging_window_s or timing.period_s
            counters.timing[domain] = replace(timing, unseen_s=max(0.0, timing.period_s - window_s))


def _enough(ticks: Sequence[Tick], periods: float) -> bool:
    """Whether there are ticks enough, and enough seen closely, which takes longer on a busy machine."""
    return len(ticks) > MIN_TICKS and (len(_sharp_pairs(ticks)) >= MIN_TICKS / 2 or periods > MANY_PERIODS)


def _sharp_pairs(ticks: Sequence[Tick]) -> list[tuple[Tick, Tick]]:
    return [(before, after) for before, after in pairwise(ticks) if before.sharp and after.sharp]


def timing_of(ticks: Sequence[Tick]) -> TickTiming | None:
    """Period, jitter, resolution and variation of power.

    Args:
        ticks: one after the other; those that were not seen closely do not count.

    Returns:
        None if there are too few to tell.
    """
    pairs = _sharp_pairs(ticks)
    if len(pairs) < MIN_TICKS / 2:
        return None
    intervals_s = [after.time_s - before.time_s for before, after in pairs]
    steps_uj = [after.total_uj - before.total_uj for before, after in pairs]
    seen_u_s = _seen_u_s([after for _, after in pairs])
    powers_w = [step * 1e-6 / interval for step, interval in zip(steps_uj, intervals_s, strict=True)]
    return TickTiming(
        period_s=statistics.median(intervals_s),
        jitter_s=max(seen_u_s, statistics.stdev(intervals_s)),
        resolution_uj=step_uj(steps_uj),
        variation_w=_variation_w(powers_w, seen_u_s / statistics.mean(intervals_s)),
        power_w=sum(steps_uj) * 1e-6 / sum(intervals_s),
        discovered=True,
    )


def step_uj(differences_uj: Sequence[int]) -> float:
    """The largest step that every difference is a multiple of, to the microjoule of rounding."""
    common = float(reduce(gcd, differences_uj))
    for known in KNOWN_STEPS_UJ:
        if known > common and all(
            abs(moved - round(moved / known) * known) <= 1 and moved >= known / 2 for moved in differences_uj
        ):
            return known
    return common


def with_variation(timing: TickTiming, ticks: Sequence[Tick]) -> TickTiming:
    """The same ticks, with the variation of power of late.

    Args:
        timing: how the counter ticks.
        ticks: the last ones whose power is known, in order; too few change nothing.
    """
    if len(ticks) < MIN_TICKS:
        return timing
    powers_w = [tick.power_w for tick in ticks if tick.power_w is not None]
    return replace(timing, variation_w=_variation_w(powers_w, _seen_u_s(ticks) / timing.period_s))


def _seen_u_s(ticks: Sequence[Tick]) -> float:
    """Uncertainty of the time between two ticks: each is seen up to half of the gap early or late."""
    return sqrt(2 / 3) * statistics.median(tick.half_width_s for tick in ticks)


def _variation_w(powers_w: Sequence[float], noise_rel: float) -> float:
    """Standard deviation from tick to tick, unless the times of the ticks explain it.

    A power that is the same in most ticks and has stepped once is steady: what happens between two ticks
    is like its neighbours. So the typical step decides, not the largest.
    """
    typical_w = statistics.median(abs(after - before) for before, after in pairwise(powers_w))
    if typical_w <= 3 * noise_rel * statistics.mean(powers_w):
        return 0.0
    return statistics.stdev(powers_w)


class _Watch:
    """Reads again and again, at a pace that fits the fastest of the watched counters, and notes ticks."""

    def __init__(self, counters: Counters, clock: Clock, domains: Iterable[str]) -> None:
        self.domains = tuple(domains)
        self.seen: dict[str, list[Tick]] = {}
        self._counters = counters
        self._clock = clock
        fastest_s = min((counters.timing[domain].period_s for domain in self.domains), default=0.0)
        self._pause_s = fastest_s / POLLS_PER_PERIOD
        self._sleeps = fastest_s >= SPIN_BELOW_S
        self._started_ns = self._last_ns = clock.now_ns()

    def read(self) -> float:
        """Read once; seconds since this watch was made."""
        if self._sleeps:
            self._clock.sleep(self._pause_s)
        before = self._counters.ticks()
        self._counters.read()
        for domain, tick in self._counters.ticks().items():
            if tick.total_uj != before[domain].total_uj:
                self.seen.setdefault(domain, []).append(tick)
        now_ns = self._clock.now_ns()
        if now_ns <= self._last_ns:
            # Reading costs no time on a virtual clock.
            self._clock.sleep(self._pause_s)
        self._last_ns = now_ns
        return (now_ns - self._started_ns) * 1e-9
