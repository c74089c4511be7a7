"""Threads that are made once, each pinned to its core, and run the same number of loops side by side.

    run(loops)   core 0  ──────████████████████──   busy
                 core 1  ───────███████████████──   busy
                            └── active ─────┘

Between runs they sleep.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from profiler.clock import Clock
from profiler.device import Execution

R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class _Span:
    started_ns: int
    ended_ns: int
    busy_ns: int


class PinnedThreads:
    """One thread on each of some logical CPUs.

    Args:
        cpus: logical CPUs, one thread each.
        make_loop: called once with each thread's number, in that thread, on its core; what it returns does
            so many loops.
        clock: tells when a run began and ended.

    Raises:
        OSError: the process may not run on one of the CPUs.
    """

    def __init__(
        self, cpus: Sequence[int], make_loop: Callable[[int], Callable[[int], object]], clock: Clock
    ) -> None:
        self._clock = clock
        self._threads = [ThreadPoolExecutor(1, f"calijoule-cpu{cpu}") for cpu in cpus]

        def begin(index: int) -> Callable[[int], object]:
            os.sched_setaffinity(0, {cpus[index]})
            return make_loop(index)

        try:
            self._loops = self._on_each(begin)
        except BaseException:
            self.close()
            raise

    def run(self, loops: int) -> Execution:
        """Do so many loops on each thread, and wait for all of them."""
        spans = self._on_each(lambda index: self._timed(self._loops[index], loops))
        active_ns = max(span.ended_ns for span in spans) - min(span.started_ns for span in spans)
        return Execution(active_s=active_ns * 1e-9, busy_core_s=sum(span.busy_ns for span in spans) * 1e-9)

    def close(self) -> None:
        """Stop the threads and free their data; a run in flight ends first."""
        for thread in self._threads:
            thread.shutdown(wait=True)
        self._loops = []

    def _on_each(self, task: Callable[[int], R]) -> list[R]:
        futures: list[Future[R]] = [thread.submit(task, index) for index, thread in enumerate(self._threads)]
        return [future.result() for future in futures]

    def _timed(self, loop: Callable[[int], object], loops: int) -> _Span:
        """Time a loop. Busy is processor time: a thread that waits for another is not busy.

        The two clocks may differ by some 100 ppm (one is disciplined), so busy is cut at the elapsed time.
        """
        started_ns, begun_ns = self._clock.now_ns(), time.thread_time_ns()
        loop(loops)
        busy_ns, ended_ns = time.thread_time_ns() - begun_ns, self._clock.now_ns()
        return _Span(started_ns=started_ns, ended_ns=ended_ns, busy_ns=min(busy_ns, ended_ns - started_ns))
