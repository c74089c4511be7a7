"""Energy from samples of power, where a part has no energy counter.

    shown power   ─── v₁ ───┐          ┌─── v₃ ───     vₖ is the mean of the update period before tick k
                            └─── v₂ ───┘
    tick                    2          3               E += vₖ · (tₖ − tₖ₋₁)

What a sensor shows is about the time before it showed it, so each value is booked, when it appears, for the
time since the value before it. (Summing up samples as they come would book it one period late: a sine or a
square wave then reads as its own past.) A tick is seen as a change of the value; a value that does not
change ticks at its nominal period. Power that the hardware averages for longer than it takes to update is
booked once in its averaging window.

To a meter all this is a cumulative counter in µJ like any other. Two samples that lie too far apart, or a
failed one, make the next read an error; after it the integral goes on.
"""

from __future__ import annotations

import threading

from calibration_data import CounterSpec
from profiler.errors import SensorReadError

POLL_PERIOD_S = 0.01
"""Ten samples in each update of a present GPU, two in each of a Volta (arXiv 2312.02741)."""

MAX_GAP_S = 0.4
"""Four updates: what power did in a longer gap is not known."""

LATEST_TICK = 1.15
"""A value that has not changed for this many periods has been shown anew: updates come up to 4 % late
(arXiv 2312.02741), and are seen one poll later."""

NEAR_PERIOD = 0.15
"""Two ticks that are one nominal period apart to this part of it teach the real one."""

AVERAGED_FROM_S = 0.5
"""Powers with a longer averaging window than this are updated within it (field 185: 1 s, each 0.1 s)."""

_NS_PER_S = 1_000_000_000


class PowerIntegral:
    """Running energy of one domain; may be fed and read from several threads.

    Args:
        domain: whose power it is.
        tick_s: update period of the power, and the time after which a value that does not change is booked;
            0 if every sample is a new value.
        averages: whether the power is a mean over ``tick_s`` however often it is updated.
        max_gap_s: longest time between two samples that is integrated over.
    """

    def __init__(
        self, domain: str, *, tick_s: float = 0.0, averages: bool = False, max_gap_s: float = MAX_GAP_S
    ) -> None:
        self.domain = domain
        self._tick_ns = round(tick_s * _NS_PER_S)
        self._period_ns = self._tick_ns
        self._averages = averages
        self._max_gap_ns = round(max_gap_s * _NS_PER_S)
        self._lock = threading.Lock()
        self._uw_ns = 0
        self._booked_ns = 0
        self._last: tuple[int, int] | None = None
        self._failure: SensorReadError | None = None

    def add(self, time_ns: int, power_uw: int) -> None:
        """Take a sample; one that is older than the last says nothing new."""
        with self._lock:
            if self._last is None:
                self._last = (time_ns, power_uw)
                self._booked_ns = time_ns
                return
            last_ns, last_uw = self._last
            if time_ns <= last_ns:
                return
            self._note_gap(time_ns - last_ns)
            self._last = (time_ns, power_uw)
            if self._tick_ns == 0:
                self._book(time_ns, power_uw)
            elif self._averages:
                if time_ns - self._booked_ns >= self._tick_ns:
                    self._book(time_ns, power_uw)
            elif power_uw != last_uw:
                self._book(self._change_ns(last_ns, time_ns), power_uw)
            elif time_ns - self._booked_ns >= LATEST_TICK * self._tick_ns:
                self._book(time_ns - round((LATEST_TICK - 1) * self._tick_ns), power_uw)

    def fail(self, error: SensorReadError) -> None:
        """Note that a sample could not be taken; the next read says so."""
        with self._lock:
            self._failure = self._failure or error
            self._last = None

    def energy_uj(self, now_ns: int | None = None) -> int:
        """Energy up to the last tick, in µJ since the first sample.

        Args:
            now_ns: the time, for noticing that samples have stopped; not noticed where not given.

        Raises:
            SensorReadError: since the last call a sample failed or came too late, or they have stopped.
        """
        with self._lock:
            if now_ns is not None and self._last is not None:
                self._note_gap(now_ns - self._last[0])
            if self._failure is not None:
                failure, self._failure = self._failure, None
                self._last = None
                raise failure
            return self._uw_ns // _NS_PER_S

    def _change_ns(self, last_ns: int, time_ns: int) -> int:
        """When the value changed: between two samples, and one period after the tick before if that fits.

        The period is learnt on the way, so that ticks are known better than samples are apart.
        """
        expected_ns = self._booked_ns + self._period_ns
        change_ns = expected_ns if last_ns < expected_ns <= time_ns else (last_ns + time_ns) // 2
        interval_ns = change_ns - self._booked_ns
        if abs(interval_ns - self._tick_ns) < NEAR_PERIOD * self._tick_ns:
            self._period_ns += (interval_ns - self._period_ns) // 8
        return change_ns

    def _book(self, time_ns: int, power_uw: int) -> None:
        self._uw_ns += power_uw * max(0, time_ns - self._booked_ns)
        self._booked_ns = max(time_ns, self._booked_ns)

    def _note_gap(self, elapsed_ns: int) -> None:
        if elapsed_ns > self._max_gap_ns:
            self._failure = self._failure or SensorReadError(
                f"The power of {self.domain} was not sampled for {elapsed_ns / _NS_PER_S:.2f} s, so"
                " its energy is not known.",
                next_step="Measure again with less else running beside it.",
            )


def integral_of(spec: CounterSpec) -> PowerIntegral:
    """The integral that a spec of kind ``power`` describes."""
    return PowerIntegral(
        spec.domain,
        tick_s=spec.update_period_s or 0.0,
        averages=(spec.averaging_window_s or 0.0) > AVERAGED_FROM_S,
    )
