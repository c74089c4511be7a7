"""Time as a measurement sees it: one monotonic clock, waiting, and something to do now and then.

Everything that waits or reads the time takes a Clock, so that a simulated device can run a campaign of
an hour in seconds with the same code.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """A monotonic clock that can also wait and call back."""

    def now_ns(self) -> int:
        """Nanoseconds since some fixed moment; never goes back."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...

    def every(self, period_s: float, action: Callable[[], None]) -> Callable[[], None]:
        """Call ``action`` each ``period_s`` until the returned function is called."""
        ...


class MonotonicClock:
    """The machine's own clock; ``every`` runs in a daemon thread of this process."""

    def now_ns(self) -> int:
        """Nanoseconds of CLOCK_MONOTONIC."""
        return time.monotonic_ns()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    def every(self, period_s: float, action: Callable[[], None]) -> Callable[[], None]:
        """Call ``action`` each ``period_s`` from a daemon thread until the returned function is called."""
        stopped = threading.Event()

        def loop() -> None:
            while not stopped.wait(period_s):
                action()

        thread = threading.Thread(target=loop, name="calijoule-poller", daemon=True)
        thread.start()

        def stop() -> None:
            stopped.set()
            thread.join()

        return stop
