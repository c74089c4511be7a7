"""Difference of two counter readings: pure integer arithmetic."""

from __future__ import annotations

from profiler.errors import CounterResetError


def counter_difference(before: int, after: int, counter_range: int | None) -> int:
    """How far a cumulative counter moved between two readings that are less than one range apart.

    Args:
        before: earlier reading.
        after: later reading.
        counter_range: the counter counts 0 … counter_range - 1 and starts again; None if it never wraps.

    Returns:
        A difference in [0, counter_range).

    Raises:
        CounterResetError: a counter without range fell, or a reading lies outside its range.
    """
    if counter_range is None:
        if after < before:
            raise CounterResetError(f"A counter that never wraps fell from {before} to {after}.")
        return after - before
    for reading in (before, after):
        if not 0 <= reading <= counter_range:
            raise CounterResetError(f"A counter reads {reading}, outside its range of {counter_range}.")
    return (after - before) % counter_range
