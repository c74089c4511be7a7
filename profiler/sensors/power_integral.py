"""Energy from samples of power, where a part has no energy counter.

    E = Σ (Pᵢ + Pᵢ₊₁)/2 · (tᵢ₊₁ − tᵢ)

A poller in this process takes a sample now and then, and every read takes one of its own, so that the
integral ends at the read. To a meter it is a cumulative counter in µJ like any other; what it cannot know,
the update period of the power and the time over which the hardware averages it, stands in its spec. Two
samples that lie too far apart, or a failed one, make the next read an error; after it the integral goes on.
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
        max_gap_s: longest time between two samples that is integrated over.
    """

    def __init__(self, domain: str, *, max_gap_s: float = MAX_GAP_S) -> None:
        self.domain = domain
        self._max_gap_ns = round(max_gap_s * _NS_PER_S)
        self._lock = threading.Lock()
        self._twice_uw_ns = 0
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
                if elapsed_ns > self._max_gap_ns:
                    self._failure = self._failure or SensorReadError(
                        f"The power of {self.domain} was not sampled for {elapsed_ns / _NS_PER_S:.2f} s, so"
                        " its energy is not known.",
                        next_step="Measure again with less else running beside it.",
                    )
                self._twice_uw_ns += (last_uw + power_uw) * elapsed_ns
            self._last = (time_ns, power_uw)

    def fail(self, error: SensorReadError) -> None:
        """Note that a sample could not be taken; the next read says so."""
        with self._lock:
            self._failure = self._failure or error
            self._last = None

    def energy_uj(self) -> int:
        """Energy up to the last sample, in µJ since the first.

        Raises:
            SensorReadError: a sample failed or came too late since the last call.
        """
        with self._lock:
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
            return self._twice_uw_ns // (2 * _NS_PER_S)
