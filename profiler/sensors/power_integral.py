"""Energy from samples of power, where a part has no energy counter.

    E = Σ (Pᵢ + Pᵢ₊₁)/2 · (tᵢ₊₁ − tᵢ)

    samples   | | | | | | | | | | | | |      every 20 ms, by a poller in this process
    counter   |         |         |          shows the integral once in an update period

To a meter it is a cumulative counter in µJ like any other. It ticks as seldom as the power says something
new: once in its update period or in the time over which the hardware averages it, whichever is longer, so
that nothing finer is taken for known. Two samples that lie too far apart, or a failed one, make the next
read an error; after it the integral goes on.
"""

from __future__ import annotations

import threading

from profiler.errors import SensorReadError

POLL_PERIOD_S = 0.02
"""Five samples in each update of a present GPU, one in each of a Volta (arXiv 2312.02741)."""

MAX_GAP_S = 0.4
"""Four updates: what power did in a longer gap is not known."""

_NS_PER_S = 1_000_000_000


class PowerIntegral:
    """Running energy of one domain; may be fed and read from several threads.

    Args:
        domain: whose power it is.
        tick_s: how often the energy that it shows moves; 0 for every sample.
        max_gap_s: longest time between two samples that is integrated over.
    """

    def __init__(self, domain: str, *, tick_s: float = 0.0, max_gap_s: float = MAX_GAP_S) -> None:
        self.domain = domain
        # A sample that comes half a poll early still ends the tick.
        self._tick_ns = round(max(0.0, tick_s - POLL_PERIOD_S / 2) * _NS_PER_S)
        self._max_gap_ns = round(max_gap_s * _NS_PER_S)
        self._lock = threading.Lock()
        self._twice_uw_ns = 0
        self._shown_uj = 0
        self._shown_ns = 0
        self._last: tuple[int, int] | None = None
        self._failure: SensorReadError | None = None

    def add(self, time_ns: int, power_uw: int) -> None:
        """Take a sample; one that is older than the last says nothing new."""
        with self._lock:
            if self._last is not None:
                last_ns, last_uw = self._last
                elapsed_ns = time_ns - last_ns
                if elapsed_ns <= 0:
                    return
                self._note_gap(elapsed_ns)
                self._twice_uw_ns += (last_uw + power_uw) * elapsed_ns
            self._last = (time_ns, power_uw)
            if time_ns - self._shown_ns >= self._tick_ns:
                self._shown_ns = time_ns
                self._shown_uj = self._twice_uw_ns // (2 * _NS_PER_S)

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
            return self._shown_uj

    def _note_gap(self, elapsed_ns: int) -> None:
        if elapsed_ns > self._max_gap_ns:
            self._failure = self._failure or SensorReadError(
                f"The power of {self.domain} was not sampled for {elapsed_ns / _NS_PER_S:.2f} s, so its"
                " energy is not known.",
                next_step="Measure again with less else running beside it.",
            )
