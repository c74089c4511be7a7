"""Repeats some work in windows until its energy is known well enough, or says that it is not.

    one call ─ calls per window ─ (random pause ─ window) × n ─ interval narrow enough? ─ mean ± interval

A window holds as many calls as make it some update periods long, so that the tick does not decide. Before
each window passes a random part of an update period, so that work that comes in step with the counter is
seen at every phase. The scatter of the windows contains their quantisation; it is taken out again, so that
both terms are reported once (GUM 4.2.3, 4.3.7).
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, hypot, inf, sqrt

from calibration_data import MeasurementError, UsageError, WindowReading, total_domains
from profiler.meter import EnergyMeter
from profiler.uncertainty import coverage_factor

MIN_WINDOWS = 5
"""Fewer windows tell too little about their scatter: k grows from 2.8 to 12.7 for two."""

TICKS_PER_WINDOW = 10.0
"""Update periods of the slowest leading counter in a window, if the budget allows."""

MAX_CALLS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class RepeatedEnergy:
    """Joules of one call of some work.

    Attributes:
        mean: joules by domain and seconds of one call; its terms of uncertainty are those of the mean.
        windows: every window as it was read, of ``calls_per_window`` calls each.
        calls_per_window: calls in each window.
        half_width_j: of the 95 % interval by domain, all terms together.
        relative_half_width: of the energy that was asked for; infinite where that is 0.
        converged: whether that is within the target.
        reason: why it is not; empty where it is.
    """

    mean: WindowReading
    windows: Sequence[WindowReading]
    calls_per_window: int
    half_width_j: dict[str, float]
    relative_half_width: float
    converged: bool
    reason: str = ""


def measure_repeated(
    meter: EnergyMeter,
    work: Callable[[], object],
    *,
    target_rel_ci: float = 0.01,
    budget_s: float = 30.0,
    domains: Sequence[str] | None = None,
    seed: int = 0,
) -> RepeatedEnergy:
    """Measure the energy of one call of some work.

    Args:
        meter: counts all domains.
        work: is called many times; each call should cost the same.
        target_rel_ci: stop when the half width of the 95 % interval of the summed domains, over their
            energy, is below this. The gain of the sensor counts: no repetition makes it smaller.
        budget_s: stop when the next window would end later than this; at least five windows are measured.
        domains: whose sum must meet the target; None for those of the total.
        seed: of the random pauses.

    Raises:
        UsageError: the target or the budget is not positive, or a domain is not measured.
        MeasurementError: a window could not be trusted.
    """
    if not (0 < target_rel_ci < inf and 0 < budget_s < inf):
        raise UsageError("The target and the budget must be positive.")
    names = tuple(spec.domain for spec in meter.specs)
    wanted = tuple(domains) if domains is not None else total_domains(names) or names
    if not wanted or not set(wanted) <= set(names):
        raise UsageError(
            f"The meter counts {', '.join(names)}, not {', '.join(sorted(set(wanted) - set(names)))}."
        )
    clock, rng = meter.clock, random.Random(seed)
    started_ns = clock.now_ns()
    period_s = max(meter.timing[domain].period_s for domain in wanted)
    calls = _calls_per_window(meter, work, period_s, budget_s)
    windows: list[WindowReading] = []
    while True:
        clock.sleep(rng.random() * period_s)
        with meter.window("repeated work") as window:
            for _ in range(calls):
                work()
        _refuse_stuck(window.reading, wanted)
        windows.append(window.reading)
        if len(windows) < MIN_WINDOWS:
            continue
        result = _summary(windows, calls, wanted, target_rel_ci)
        passed_s = (clock.now_ns() - started_ns) * 1e-9
        if result.converged or passed_s * (1 + 1 / len(windows)) > budget_s:
            return result


def _calls_per_window(
    meter: EnergyMeter, work: Callable[[], object], period_s: float, budget_s: float
) -> int:
    """As many as fill ten update periods, or a share of the budget; the first call warms up."""
    work()
    started_ns = meter.clock.now_ns()
    work()
    call_s = max((meter.clock.now_ns() - started_ns) * 1e-9, 1e-9)
    window_s = min(TICKS_PER_WINDOW * period_s, budget_s / (2 * MIN_WINDOWS))
    return max(1, min(MAX_CALLS, ceil(window_s / call_s)))


def _refuse_stuck(reading: WindowReading, wanted: Sequence[str]) -> None:
    stuck = [domain for domain in wanted if "stuck" in reading.flags.get(domain, ())]
    if stuck:
        raise MeasurementError(
            f"{', '.join(stuck)} did not move in {reading.duration_s:.3g} s of work: the counter is stuck.",
            next_step="Check the sensor with: calijoule devices.",
        )


def _summary(
    windows: Sequence[WindowReading], calls: int, wanted: Sequence[str], target: float
) -> RepeatedEnergy:
    count = len(windows)
    factor = coverage_factor(count - 1)
    mean_j, quantisation_u_j, repeatability_u_j = {}, {}, {}
    for domain in windows[0].energy_j:
        mean_j[domain] = statistics.fmean(window.energy_j[domain] for window in windows) / calls
        known = sum(window.quantisation_u_j[domain] ** 2 for window in windows) / count
        # A counter's quantisation is independent from window to window, as their phase is.
        scatter = statistics.variance([window.energy_j[domain] for window in windows])
        quantisation_u_j[domain] = sqrt(known / count) / calls
        repeatability_u_j[domain] = sqrt(max(0.0, scatter - known) / count) / calls
    mean = WindowReading(
        duration_s=statistics.fmean(window.duration_s for window in windows) / calls,
        energy_j=mean_j,
        quantisation_u_j=quantisation_u_j,
        repeatability_u_j=repeatability_u_j,
        gain_u_rel=windows[0].gain_u_rel,
        flags={
            domain: tuple(dict.fromkeys(flag for window in windows for flag in window.flags.get(domain, ())))
            for domain in sorted({domain for window in windows for domain in window.flags})
        },
    )
    half_width_j = {domain: factor * mean.standard_uncertainty_j(domain) for domain in mean_j}
    energy_j = sum(mean_j[domain] for domain in wanted)
    relative = factor * _together_u_j(mean, wanted) / energy_j if energy_j > 0 else inf
    reason = ""
    if relative > target:
        reason = f"after {count} windows the interval is ± {relative:.2%}, and ± {target:.2%} was asked for"
    return RepeatedEnergy(
        mean=mean,
        windows=tuple(windows),
        calls_per_window=calls,
        half_width_j=half_width_j,
        relative_half_width=relative,
        converged=not reason,
        reason=reason,
    )


def _together_u_j(mean: WindowReading, wanted: Sequence[str]) -> float:
    """Uncertainty of a sum: what scatters is independent, gains of like sensors err together."""
    independent = [hypot(mean.quantisation_u_j[domain], mean.repeatability_u_j[domain]) for domain in wanted]
    gain_j = sum(mean.gain_u_rel.get(domain, 0.0) * mean.energy_j[domain] for domain in wanted)
    return hypot(*independent, gain_j)
