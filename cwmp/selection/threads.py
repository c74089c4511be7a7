"""Work shared among threads: torch's own where it has an OpenMP runtime, others elsewhere.

After a parallel operation OpenMP's threads do not sleep but wait for the next one, some milliseconds long,
each on a core that others then lack. A selection follows such operations, so it takes part in them.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

_TASK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def in_threads(work: Callable[[T], R], items: Sequence[T], threads: int) -> list[R]:
    """Results of ``work`` for each item, in their order.

    Args:
        work: leaves the interpreter lock while it computes.
        items: what it is given, one by one, by whichever thread is free.
        threads: that share the work, at most.

    Raises:
        BaseException: what ``work`` raised first.
    """
    threads = min(threads, len(items))
    if threads <= 1:
        return [work(item) for item in items]
    if _PARALLEL is None or os.getpid() != _PROCESS:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(work, items))
    shared = _Shared(work, items)
    task = _TASK(shared.take_part)
    _PARALLEL(task, None, threads, 0)
    return shared.results()


def _openmp() -> Any:
    """``GOMP_parallel`` of the runtime that torch has loaded, GNU's or LLVM's; None without one.

    Compilers turn a parallel region into ``void GOMP_parallel(void (*fn)(void *), void *data, unsigned
    threads, unsigned flags)`` (libgomp manual, section "Implementing PARALLEL construct").
    """
    try:
        function = ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):
        return None
    function.argtypes = [_TASK, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    function.restype = None
    return function


_PARALLEL = _openmp()
_PROCESS = os.getpid()
"""The threads do not follow into a fork of it, where the runtime would wait for them for ever."""


class _Shared:
    """Items of which each thread takes the next one when it has done its last."""

    def __init__(self, work: Callable[[T], R], items: Sequence[T]) -> None:
        self._work, self._items = work, enumerate(items)
        self._lock = Lock()
        self._results: list[Any] = [None] * len(items)
        self._error: BaseException | None = None

    def take_part(self, _: object) -> None:
        """Work until nothing is left. Raises nothing: it is called by no interpreter that could hear it."""
        try:
            for place, item in self._next_ones():
                self._results[place] = self._work(item)
        except BaseException as error:
            self._error = self._error or error

    def _next_ones(self) -> Iterator[tuple[int, Any]]:
        while self._error is None:
            with self._lock:
                found = next(self._items, None)
            if found is None:
                return
            yield found

    def results(self) -> list[Any]:
        """Of each item, in their order."""
        if self._error is not None:
            raise self._error
        return self._results
