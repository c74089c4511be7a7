"""Closes a window: waits for the ticks that end it, and puts together what its edges say.

end ── read ── tick after the end ── (one more, where the power changed and a tick is cheap) ── reading
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from calibration_data import MeasurementError, WindowFlag, WindowReading
from profiler.alignment import Alignment
from profiler.counters import STUCK_PERIODS, Counters, Tick, patience_s
from profiler.window_energy import Span, WindowEnergy, needs_following_tick, unwatched_u_j, window_energy

CHEAP_PERIOD_S = 0.005
"""``auto`` waits one more tick after the window only for counters that tick at least this often."""

MANY_PERIODS = 10.0
"""So many update periods between two edges tell a power, also where the ticks were not watched."""

Wait = Callable[[Iterable[str]], dict[str, list[Tick]]]
"""Waits for ticks of some domains and returns those that were seen."""


@dataclass
class OpenWindow:
    """Where a window began, and what was seen since.

    Attributes:
        read_s: time of the reading at its begin.
        opening: the last tick of every counter before it.
        before: the last edge of another window before it.
        first: the first tick in it, of slow counters.
        begin_ns: when its work began.
        failure: the first failure of a reading since; the window is lost with it.
    """

    read_s: float
    opening: Mapping[str, Tick]
    before: Mapping[str, Tick]
    first: dict[str, Tick] = field(default_factory=dict)
    begin_ns: int = 0
    failure: MeasurementError | None = None


class Closing:
    """Makes readings of windows that have just been read at their end.

    Args:
        counters: of the meter.
        alignment: what to wait for.
        gain_u_rel: as for ``EnergyMeter``.
    """

    def __init__(self, counters: Counters, alignment: Alignment, gain_u_rel: Mapping[str, float]) -> None:
        self._counters = counters
        self._alignment = alignment
        self._gain_u_rel = dict(gain_u_rel)
        self._outside_w: dict[str, float] = {}

    def reading(self, window: OpenWindow, end_ns: int, wait: Wait) -> WindowReading:
        """Joules of a window that ended at ``end_ns``; the counters have been read since.

        Raises:
            MeasurementError: no time passed, or a reading on the way failed or cannot be trusted.
        """
        duration_s = (end_ns - window.begin_ns) / 1e9
        plain = None if self._alignment.worth_it else self._plain(window, duration_s)
        if plain is not None:
            return plain
        spans, still = self._spans(window, end_ns, wait)
        energies = {domain: window_energy(span) for domain, span in spans.items()}
        flags = {domain: self._flags(spans[domain], energies[domain], domain in still) for domain in spans}
        return WindowReading(
            duration_s=duration_s,
            energy_j={domain: energy.energy_j for domain, energy in energies.items()},
            quantisation_u_j={domain: energy.u_j for domain, energy in energies.items()},
            gain_u_rel=self._gain_u_rel,
            flags={domain: found for domain, found in flags.items() if found},
        )

    def _plain(self, window: OpenWindow, duration_s: float) -> WindowReading | None:
        """The short way where no tick is watched; None where there is more to say about a domain."""
        if self._counters.slow or self._counters.stood_still_since(window.read_s):
            return None
        energy_j, u_j = {}, {}
        for domain, tick in self._counters.ticks().items():
            timing, opening = self._counters.timing[domain], window.opening[domain]
            moved_j = (tick.total_uj - opening.total_uj) * 1e-6
            if moved_j <= 0 or duration_s < timing.period_s:
                return None
            energy_j[domain] = moved_j
            u_j[domain] = unwatched_u_j(moved_j, duration_s, opening, tick, timing)
        return WindowReading(
            duration_s=duration_s, energy_j=energy_j, quantisation_u_j=u_j, gain_u_rel=self._gain_u_rel
        )

    def _spans(self, window: OpenWindow, end_ns: int, wait: Wait) -> tuple[dict[str, Span], frozenset[str]]:
        """What is known about each domain, and the leading domains that did not tick after the end."""
        at_end, read_s = self._counters.ticks(), self._counters.read_s
        waited_for = self._alignment.expected()
        stood_still = self._alignment.leading & self._counters.stood_still_since(window.read_s)
        seen = wait(waited_for)
        outside_w = {domain: self._power_before(domain, window) for domain in at_end}

        def spans() -> dict[str, Span]:
            return {
                domain: Span(
                    domain=domain,
                    begin_s=window.begin_ns * 1e-9,
                    end_s=end_ns * 1e-9,
                    opening=window.opening[domain],
                    first=window.first.get(domain),
                    at_end=tick,
                    closing=seen[domain][0] if domain in seen else tick,
                    following=seen[domain][1] if len(seen.get(domain, ())) > 1 else None,
                    read_s=read_s - window.read_s,
                    outside_w=outside_w[domain],
                    timing=self._counters.timing[domain],
                )
                for domain, tick in at_end.items()
            }

        first = spans()
        if not seen:
            return first, waited_for | stood_still
        more = {
            domain
            for domain in waited_for & set(seen)
            if first[domain].following is None
            and (self._alignment.at_any_price or self._counters.timing[domain].period_s <= CHEAP_PERIOD_S)
            and needs_following_tick(first[domain])
        }
        for domain, ticks in wait(more).items():
            seen.setdefault(domain, []).extend(ticks)
        return (spans() if more else first), (waited_for - set(seen)) | stood_still

    def _power_before(self, domain: str, window: OpenWindow) -> float | None:
        """Mean power from the last edge before a window to its begin; an older one if that is too short."""
        before, tick = window.before.get(domain), window.opening[domain]
        if before is not None:
            passed_s = tick.time_s - before.time_s
            watched = before.sharp and tick.sharp
            if passed_s > 0 and (watched or passed_s > MANY_PERIODS * self._counters.timing[domain].period_s):
                self._outside_w[domain] = (tick.total_uj - before.total_uj) * 1e-6 / passed_s
        return self._outside_w.get(domain, self._counters.timing[domain].power_w)

    def _flags(self, span: Span, energy: WindowEnergy, stood_still: bool) -> tuple[WindowFlag, ...]:
        flags = energy.flags
        if span.domain in self._counters.slow:
            flags += ("slow read",)
        must_move_s = patience_s(span.timing.period_s, STUCK_PERIODS)
        unmoved = "unmoved" in flags and span.duration_s > must_move_s
        if stood_still or (span.domain in self._alignment.leading and unmoved):
            flags += ("stuck",)
        return flags
