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
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

from calibration_data import (
    CounterSpec,
    MeasurementError,
    NoUsableSensorError,
    UsageError,
    WindowFlag,
    WindowReading,
)
from profiler.alignment import Align, Alignment
from profiler.clock import Clock, MonotonicClock
from profiler.counters import PLAUSIBLE_POWER_W, STUCK_PERIODS, Counters, Tick, TickTiming, patience_s
from profiler.errors import CounterResetError, ImplausiblePowerError, SensorMissingError, WindowOrderError
from profiler.sensors.base import Sensor
from profiler.ticks import wait_for_ticks
from profiler.window_energy import Span, WindowEnergy, needs_following_tick, unwatched_u_j, window_energy

CHEAP_PERIOD_S = 0.005
"""``auto`` waits one more tick after the window only for counters that tick at least this often."""

MANY_PERIODS = 10.0
"""So many update periods between two edges tell a power, also where the ticks were not watched."""

LONGEST_POLL_S = 0.05
"""The counters of an open window are read this often: a counter that stands still, jumps back or starts anew
in between is then noticed, where two readings a window would make a plausible number of it."""

POLLS_IN_SLOW_PERIOD = 4
"""A counter whose ticks are watched in the background is looked after this often."""

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
    """Where a window began, and what was seen since.

    The first failure of a reading is kept; the window is lost with it.
    """

    read_s: float
    opening: Mapping[str, Tick]
    before: Mapping[str, Tick]
    first: dict[str, Tick] = field(default_factory=dict)
    begin_ns: int = 0
    failure: MeasurementError | None = None


class EnergyMeter:
    """Measures the energy of windows with all domains of some sensors.

    Args:
        sensors: cumulative counters; their domains must have different names.
        clock: the sensors' readings carry their times from the same clock.
        synchronize: called before both edges of each window, for devices that work asynchronously.
        align: ``auto`` waits for a tick of the leading counters (those of the total) at both edges, and for
            one more after the end where the power changed and a tick is cheap; slow counters (from 5 ms) are
            watched in the background, and then waited for only at the end. ``always`` waits for that one
            more tick at any price, and for counters that tick less than twice a second too; ``never`` costs
            two reads a window, leaves the ticks to the uncertainty, and cannot see that a counter stopped
            within a window. Simulated counters are aligned only by ``always``: virtual time is free, so
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
        self._synchronize = synchronize
        self._counters = Counters(sensors)
        self._gain_u_rel = dict(gain_u_rel or {})
        unknown = sorted(set(self._gain_u_rel) - set(self._counters.specs))
        if unknown:
            raise UsageError(f"A gain is given for {', '.join(unknown)}, which no sensor measures.")
        self._alignment = Alignment(self._counters, self._clock, align)
        self._lock = threading.Lock()
        self._open: dict[str, _OpenWindow] = {}
        self._last_edge: Mapping[str, Tick] = {}
        self._outside_w: dict[str, float] = {}
        self._stop_polling: Callable[[], None] | None = None
        self._poll_s = LONGEST_POLL_S
        # What a sensor has to complain about comes out at the first window.
        with suppress(MeasurementError, NoUsableSensorError):
            self._look()
        if self._alignment.watched():
            self._start_polling()

    @property
    def specs(self) -> tuple[CounterSpec, ...]:
        """Specs of every domain."""
        return tuple(self._counters.specs.values())

    @property
    def clock(self) -> Clock:
        """Time as the sensors see it."""
        return self._clock

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
        if self._synchronize is not None:
            self._synchronize()
        with self._lock:
            if self._open:
                self._read()
            else:
                self._read_anew()
            self._wait(self._alignment.before_begin())
            window = _OpenWindow(self._counters.read_s, self._counters.ticks(), self._last_edge)
            self._open[name] = window
        # The last thing to do: from here on the energy is the work's.
        window.begin_ns = self._clock.now_ns()

    def end(self, name: str) -> WindowReading:
        """Close a window and return its joules.

        Raises:
            WindowOrderError: no window of that name is open.
            SensorReadError: a counter could not be read, now or while the window was open.
            CounterResetError: a counter without a range fell.
            ImplausiblePowerError: a counter moved faster than any part can draw power.
            MeasurementError: no time passed between the two edges.
        """
        end_ns = self._clock.now_ns()
        window = self._open.get(name)
        if window is None:
            raise WindowOrderError(f"No window named {name!r} is open.")
        try:
            if self._synchronize is not None:
                self._synchronize()
                end_ns = self._clock.now_ns()
            with self._lock:
                if window.failure is not None:
                    raise window.failure
                duration_s = (end_ns - window.begin_ns) / 1e9
                if duration_s <= 0:
                    raise MeasurementError(f"The window {name!r} ended at the instant at which it began.")
                self._read()
                reading = None if self._alignment.worth_it else self._plain_reading(window, duration_s)
                if reading is None:
                    spans, still = self._close_spans(window, end_ns)
                    reading = self._reading(duration_s, spans, still)
                self._last_edge = self._counters.ticks()
        finally:
            del self._open[name]
        return reading

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
        self._alignment.discover()
        self._last_edge = self._counters.ticks()
        for domain, timing in self._counters.timing.items():
            if timing.power_w is not None:
                self._outside_w[domain] = timing.power_w

    def _wait(self, domains: Iterable[str]) -> dict[str, list[Tick]]:
        try:
            return wait_for_ticks(self._counters, self._clock, domains)
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
        for domain in self._alignment.watched():
            tick = self._counters.ticks()[domain]
            for window in tuple(self._open.values()):
                if tick.total_uj != window.opening[domain].total_uj:
                    window.first.setdefault(domain, tick)

    def _fail(self, error: MeasurementError) -> None:
        """A failure is lasting for every window that is open."""
        for window in tuple(self._open.values()):
            window.failure = window.failure or error

    def _power_before(self, domain: str, window: _OpenWindow) -> float | None:
        """Mean power from the last edge before a window to its begin; an older one if that is too short."""
        before, tick = window.before.get(domain), window.opening[domain]
        if before is not None:
            passed_s = tick.time_s - before.time_s
            watched = before.sharp and tick.sharp
            if passed_s > 0 and (watched or passed_s > MANY_PERIODS * self._counters.timing[domain].period_s):
                self._outside_w[domain] = (tick.total_uj - before.total_uj) * 1e-6 / passed_s
        return self._outside_w.get(domain)

    def _plain_reading(self, window: _OpenWindow, duration_s: float) -> WindowReading | None:
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

    def _close_spans(self, window: _OpenWindow, end_ns: int) -> tuple[dict[str, Span], frozenset[str]]:
        """What is known about each domain, and the leading domains that did not tick after the end."""
        at_end, read_s = self._counters.ticks(), self._counters.read_s
        waited_for = self._alignment.expected()
        stood_still = self._alignment.leading & self._counters.stood_still_since(window.read_s)
        seen = self._wait(waited_for)

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
        for domain, ticks in self._wait(more).items():
            seen.setdefault(domain, []).extend(ticks)
        return (spans() if more else first), (waited_for - set(seen)) | stood_still

    def _reading(self, duration_s: float, spans: Mapping[str, Span], still: frozenset[str]) -> WindowReading:
        energies = {domain: window_energy(span) for domain, span in spans.items()}
        flags = {domain: self._flags(spans[domain], energies[domain], domain in still) for domain in spans}
        return WindowReading(
            duration_s=duration_s,
            energy_j={domain: energy.energy_j for domain, energy in energies.items()},
            quantisation_u_j={domain: energy.u_j for domain, energy in energies.items()},
            gain_u_rel=self._gain_u_rel,
            flags={domain: found for domain, found in flags.items() if found},
        )

    def _flags(self, span: Span, energy: WindowEnergy, stood_still: bool) -> tuple[WindowFlag, ...]:
        flags = energy.flags
        if span.domain in self._counters.slow:
            flags += ("slow read",)
        must_move_s = patience_s(span.timing.period_s, STUCK_PERIODS)
        unmoved = "unmoved" in flags and span.duration_s > must_move_s
        if stood_still or (span.domain in self._alignment.leading and unmoved):
            flags += ("stuck",)
        return flags

    def _start_polling(self) -> None:
        if self._stop_polling is not None:
            return
        periods_s = [
            spec.range_uj * 1e-6 / PLAUSIBLE_POWER_W / 2 for spec in self.specs if spec.range_uj is not None
        ]
        if any(spec.interface != "simulated" for spec in self.specs):
            periods_s.append(LONGEST_POLL_S)
        periods_s += [
            self._counters.timing[domain].period_s / POLLS_IN_SLOW_PERIOD
            for domain in self._alignment.watched()
        ]
        if periods_s:
            self._poll_s = min(periods_s)
            self._stop_polling = self._clock.every(self._poll_s, self._poll)

    def _poll(self) -> None:
        if self._read_between():
            self._alignment.watch(self._read_between, self._poll_s)

    def _read_between(self) -> bool:
        """Read, unless an edge is being read just now."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            # A failure is kept in the open windows and raised when they end.
            with suppress(MeasurementError):
                self._read()
        finally:
            self._lock.release()
        return True
