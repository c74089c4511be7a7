"""Opens and closes measurement windows. From here on energy is in joules and time in seconds.

    begin ── synchronise, read, wait for a tick ──┐ work ┌── synchronise, read, wait for a tick ── end
                                                  └ poll ┘   before a counter can wrap

A window starts when ``begin`` returns and stops when ``end`` is called (and the device is idle); what the
counters moved while ``end`` waits is taken off again (``profiler.window_energy``).
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal, ParamSpec, TypeVar

from calibration_data import (
    CounterSpec,
    MeasurementError,
    NoUsableSensorError,
    UsageError,
    WindowFlag,
    WindowReading,
)
from profiler.clock import Clock, MonotonicClock
from profiler.counters import PLAUSIBLE_POWER_W, Counters, Tick, TickTiming
from profiler.errors import CounterResetError, ImplausiblePowerError, SensorMissingError, WindowOrderError
from profiler.sensors.base import Sensor
from profiler.ticks import discover_ticks, leading_domains, wait_for_ticks
from profiler.window_energy import Span, WindowEnergy, needs_following_tick, window_energy

Align = Literal["auto", "always", "never"]

LONGEST_ALIGNED_PERIOD_S = 0.5
"""``auto`` does not wait for counters that tick less often."""

CHEAP_PERIOD_S = 0.005
"""``auto`` waits one more tick after the window only for counters that tick at least this often."""

STUCK_PERIODS = 3.0
"""A leading counter that stands still for this many update periods is stuck."""

MANY_PERIODS = 10.0
"""So many update periods between two edges tell a power, also where the ticks were not watched."""

JUST_NOW = 0.05
"""A window that begins within this part of an update period after a tick begins at the tick."""

LONGEST_POLL_S = 1.0
"""A poller reads at least this often, so that a reset is not taken for a wraparound."""

P = ParamSpec("P")
R = TypeVar("R")


@dataclass
class Window:
    """A window of ``EnergyMeter.window``; ``reading`` is there once it has closed without an exception."""

    name: str
    _reading: WindowReading | None = None

    @property
    def reading(self) -> WindowReading:
        """Joules and seconds of the window.

        Raises:
            WindowOrderError: the window is still open, or an exception discarded it.
        """
        if self._reading is None:
            raise WindowOrderError(f"Window {self.name!r} has no reading: it is open or was discarded.")
        return self._reading


@dataclass
class _OpenWindow:
    """Where a window began, and the first failure of a reading since: the window is lost with it."""

    begin_ns: int
    read_s: float
    opening: Mapping[str, Tick]
    outside_w: Mapping[str, float]
    failure: MeasurementError | None = None


class EnergyMeter:
    """Measures the energy of windows with all domains of some sensors.

    Args:
        sensors: cumulative counters; their domains must have different names.
        clock: the sensors' readings carry their times from the same clock.
        synchronize: called before both edges of each window, for devices that work asynchronously.
        align: ``auto`` waits for a tick of the leading counters (those of the total) at both edges, and for
            one more after the end where the power changed and a tick is cheap; ``always`` for that one at
            any price, and for slow counters too; ``never`` costs two reads a window and leaves the ticks
            to the uncertainty. Simulated counters are aligned only by ``always``: virtual time is free, so
            their windows are made long instead.
        gain_u_rel: relative standard uncertainty of a sensor's gain by domain, where it is known.

    Unless ``never``, making a meter takes eight ticks of the slowest counter, to learn how they come.

    Raises:
        SensorMissingError: there is no sensor.
        UsageError: two domains have the same name, or a gain is given for a domain that is not measured.
    """

    def __init__(
        self,
        sensors: Sequence[Sensor],
        *,
        clock: Clock | None = None,
        synchronize: Callable[[], None] | None = None,
        align: Align = "auto",
        gain_u_rel: Mapping[str, float] | None = None,
    ) -> None:
        if not sensors:
            raise SensorMissingError(
                "There is no sensor to measure with.", next_step="See: calijoule devices."
            )
        self._clock = clock or MonotonicClock()
        self._synchronize = synchronize or (lambda: None)
        self._align = align
        self._counters = Counters(sensors)
        self._gain_u_rel = dict(gain_u_rel or {})
        unknown = sorted(set(self._gain_u_rel) - set(self._counters.specs))
        if unknown:
            raise UsageError(f"A gain is given for {', '.join(unknown)}, which no sensor measures.")
        self._leading = frozenset(leading_domains(self._counters.specs))
        self._lock = threading.Lock()
        self._open: dict[str, _OpenWindow] = {}
        self._last_edge: Mapping[str, Tick] = {}
        self._outside_w: dict[str, float] = {}
        self._stop_polling: Callable[[], None] | None = None
        # What a sensor has to complain about comes out at the first window.
        with suppress(MeasurementError, NoUsableSensorError):
            self._look()

    @property
    def specs(self) -> tuple[CounterSpec, ...]:
        """Specs of every domain."""
        return tuple(self._counters.specs.values())

    @property
    def timing(self) -> Mapping[str, TickTiming]:
        """How every counter ticks: as discovered, else as its spec says."""
        return dict(self._counters.timing)

    def begin(self, name: str) -> None:
        """Open a window.

        Raises:
            WindowOrderError: a window of that name is open.
            SensorReadError: a counter could not be read.
        """
        if name in self._open:
            raise WindowOrderError(f"A window named {name!r} is already open.")
        self._start_polling()
        self._synchronize()
        with self._lock:
            if self._open:
                self._read()
            else:
                self._read_anew()
            self._wait(self._alignable() & self._not_at_a_tick())
            opening = self._counters.ticks()
            self._note_outside(opening)
            outside_w = dict(self._outside_w)
            self._open[name] = _OpenWindow(self._clock.now_ns(), self._counters.read_s, opening, outside_w)

    def end(self, name: str) -> WindowReading:
        """Close a window and return its joules.

        Raises:
            WindowOrderError: no window of that name is open.
            SensorReadError: a counter could not be read, now or while the window was open.
            CounterResetError: a counter without a range fell.
            ImplausiblePowerError: a counter moved faster than any part can draw power.
            MeasurementError: no time passed between the two edges.
        """
        if name not in self._open:
            raise WindowOrderError(f"No window named {name!r} is open.")
        try:
            self._synchronize()
            end_ns = self._clock.now_ns()
            with self._lock:
                window = self._open[name]
                if window.failure is not None:
                    raise window.failure
                self._read()
                spans, still = self._close_spans(window, end_ns)
                self._last_edge = self._counters.ticks()
        finally:
            del self._open[name]
        duration_s = (end_ns - window.begin_ns) / 1e9
        if duration_s <= 0:
            raise MeasurementError(f"The window {name!r} ended at the instant at which it began.")
        return self._reading(duration_s, spans, still)

    @contextmanager
    def window(self, name: str = "window") -> Iterator[Window]:
        """Measure the body of a ``with``; an exception in it discards the window."""
        window = Window(name)
        self.begin(name)
        try:
            yield window
        except BaseException:
            self._open.pop(name, None)
            raise
        window._reading = self.end(name)

    def measured(
        self, report: Callable[[str, WindowReading], None]
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Decorator: each call becomes a window, whose reading goes to ``report(name, reading)``."""

        def decorate(function: Callable[P, R]) -> Callable[P, R]:
            @functools.wraps(function)
            def measured_function(*args: P.args, **kwargs: P.kwargs) -> R:
                with self.window(function.__qualname__) as window:
                    result = function(*args, **kwargs)
                report(window.name, window.reading)
                return result

            return measured_function

        return decorate

    def close(self) -> None:
        """Stop the poller; the sensors stay open, since they belong to whoever opened them."""
        if self._stop_polling is not None:
            self._stop_polling()
            self._stop_polling = None
        self._open.clear()

    def __enter__(self) -> EnergyMeter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _look(self) -> None:
        if self._alignable():
            discover_ticks(self._counters, self._clock)
        else:
            self._counters.read()
        self._last_edge = self._counters.ticks()
        for domain, timing in self._counters.timing.items():
            if timing.power_w is not None:
                self._outside_w[domain] = timing.power_w

    def _alignable(self) -> frozenset[str]:
        """Leading domains for whose ticks it is worth to wait."""
        if self._align == "never":
            return frozenset()
        if self._align == "always":
            return self._leading
        return frozenset(
            domain
            for domain in self._leading
            if self._counters.specs[domain].interface != "simulated"
            and self._counters.timing[domain].period_s <= LONGEST_ALIGNED_PERIOD_S
        )

    def _expected(self, domains: Iterable[str]) -> frozenset[str]:
        """Those that are known to tick and can be read quickly enough to see it."""
        return frozenset(
            domain
            for domain in domains
            if self._counters.timing[domain].discovered and domain not in self._counters.slow
        )

    def _not_at_a_tick(self) -> frozenset[str]:
        """Domains that were not seen to tick just now, as they are where another window has just ended."""
        now_s = self._counters.read_s
        return frozenset(
            domain
            for domain, tick in self._counters.ticks().items()
            if not tick.sharp or now_s - tick.time_s > JUST_NOW * self._counters.timing[domain].period_s
        )

    def _wait(self, domains: Iterable[str]) -> dict[str, list[Tick]]:
        try:
            return wait_for_ticks(self._counters, self._clock, self._expected(domains))
        except MeasurementError as error:
            self._fail(error)
            raise

    def _read_anew(self) -> None:
        """What a counter did between windows is nobody's energy: count anew from here."""
        try:
            self._counters.read()
        except (CounterResetError, ImplausiblePowerError):
            self._last_edge = {}
            self._counters.forget()
            self._counters.read()

    def _read(self) -> None:
        try:
            self._counters.read()
        except MeasurementError as error:
            self._fail(error)
            raise

    def _fail(self, error: MeasurementError) -> None:
        """A failure is lasting for every window that is open."""
        for window in tuple(self._open.values()):
            window.failure = window.failure or error

    def _note_outside(self, opening: Mapping[str, Tick]) -> None:
        """Mean power since the window before."""
        for domain, before in self._last_edge.items():
            tick = opening[domain]
            passed_s = tick.time_s - before.time_s
            watched = before.sharp and tick.sharp
            if passed_s > 0 and (watched or passed_s > MANY_PERIODS * self._counters.timing[domain].period_s):
                self._outside_w[domain] = (tick.total_uj - before.total_uj) * 1e-6 / passed_s

    def _close_spans(self, window: _OpenWindow, end_ns: int) -> tuple[dict[str, Span], frozenset[str]]:
        """What is known about each domain, and the leading domains that did not tick after the end."""
        at_end, read_s = self._counters.ticks(), self._counters.read_s
        waited_for = self._expected(self._alignable())
        seen = self._wait(waited_for)

        def spans() -> dict[str, Span]:
            return {
                domain: Span(
                    domain=domain,
                    begin_s=window.begin_ns * 1e-9,
                    end_s=end_ns * 1e-9,
                    opening=window.opening[domain],
                    at_end=tick,
                    closing=seen[domain][0] if domain in seen else tick,
                    following=seen[domain][1] if len(seen.get(domain, ())) > 1 else None,
                    read_s=read_s - window.read_s,
                    outside_w=window.outside_w.get(domain),
                    timing=self._counters.timing[domain],
                )
                for domain, tick in at_end.items()
            }

        first = spans()
        more = {
            domain
            for domain in waited_for & set(seen)
            if first[domain].following is None
            and (self._align == "always" or self._counters.timing[domain].period_s <= CHEAP_PERIOD_S)
            and needs_following_tick(first[domain])
        }
        for domain, ticks in self._wait(more).items():
            seen.setdefault(domain, []).extend(ticks)
        return (spans() if more else first), waited_for - set(seen)

    def _reading(self, duration_s: float, spans: Mapping[str, Span], still: frozenset[str]) -> WindowReading:
        energies = {domain: window_energy(span) for domain, span in spans.items()}
        flags = {domain: self._flags(spans[domain], energies[domain], domain in still) for domain in spans}
        if self._align == "never":
            self._outside_w |= {
                domain: span.mean_w for domain, span in spans.items() if energies[domain].energy_j > 0
            }
        return WindowReading(
            duration_s=duration_s,
            energy_j={domain: energy.energy_j for domain, energy in energies.items()},
            quantisation_u_j={domain: energy.u_j for domain, energy in energies.items()},
            gain_u_rel=self._gain_u_rel,
            flags={domain: found for domain, found in flags.items() if found},
        )

    def _flags(self, span: Span, energy: WindowEnergy, still: bool) -> tuple[WindowFlag, ...]:
        flags = energy.flags
        if span.domain in self._counters.slow:
            flags += ("slow read",)
        stood_s = STUCK_PERIODS * span.timing.period_s
        if still or (span.domain in self._leading and "unmoved" in flags and span.duration_s > stood_s):
            flags += ("stuck",)
        return flags

    def _start_polling(self) -> None:
        ranges = [spec.range_uj for spec in self.specs if spec.range_uj is not None]
        if self._stop_polling is None and ranges:
            period_s = min(LONGEST_POLL_S, min(ranges) * 1e-6 / PLAUSIBLE_POWER_W / 2)
            self._stop_polling = self._clock.every(period_s, self._poll)

    def _poll(self) -> None:
        with self._lock:
            if self._open:
                # The failure is kept in the windows and raised when they end.
                with suppress(MeasurementError):
                    self._read()
