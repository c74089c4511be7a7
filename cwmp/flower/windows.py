"""Joules of hosts from windows of their clients: the union of the windows, never the sum over clients.

Several clients on one host read one counter. Two windows that overlap contain the same joules twice:

    client 0   ├────────────┤                 energy of the union = what the counter moved from the first
    client 1         ├───────────────┤        edge to the last, piece by piece in the order of time
    union      ├─────────────────────┤

A window has the readings at its edges, which all processes of a host see alike, and the monotonic times since
that host was booted. What the clients did inside such overlapping windows cannot be told apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator

from profiler.wraparound import counter_difference

Name = Annotated[str, Field(min_length=1, max_length=200)]


class HostWindow(BaseModel):
    """What a counter of a host showed at the edges of a client's work.

    Attributes:
        host: boot id of the machine.
        domain: what the counter counts, such as ``package-0``.
        start_ns: monotonic time of the first edge.
        end_ns: of the second.
        start_uj: reading at the first edge, µJ.
        end_uj: at the second.
        range_uj: where the counter starts again; None if it never does.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: Name
    domain: Name
    start_ns: NonNegativeInt
    end_ns: NonNegativeInt
    start_uj: NonNegativeInt
    end_uj: NonNegativeInt
    range_uj: PositiveInt | None = None

    @model_validator(mode="after")
    def _is_a_window(self) -> Self:
        if self.end_ns < self.start_ns:
            raise ValueError("a window ends before it begins")
        if self.range_uj is not None and max(self.start_uj, self.end_uj) > self.range_uj:
            raise ValueError("a reading is outside the range of its counter")
        if self.range_uj is None and self.end_uj < self.start_uj:
            raise ValueError("a counter that never wraps fell")
        return self


class HostEnergy(BaseModel):
    """Joules of one domain of one host in the union of some windows; idle power is in them.

    Attributes:
        host: boot id of the machine.
        domain: what the counter counts.
        energy_j: joules in the union.
        seconds: its length.
        windows: how many were united.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: Name
    domain: Name
    energy_j: float
    seconds: float
    windows: int


def united(windows: Iterable[HostWindow]) -> tuple[HostEnergy, ...]:
    """Joules of every host and domain in the union of their windows, in the order of their names.

    Raises:
        CounterResetError: windows of one counter contradict each other.
    """
    by_counter: dict[tuple[str, str], list[HostWindow]] = defaultdict(list)
    for window in windows:
        by_counter[window.host, window.domain].append(window)
    return tuple(
        _union(sorted(group, key=lambda window: (window.start_ns, window.end_ns)))
        for _, group in sorted(by_counter.items())
    )


def overlapping(windows: Sequence[HostWindow]) -> list[bool]:
    """Of each window, whether another one of the same host and domain shares some of its time."""
    shared = [False] * len(windows)
    order = sorted(range(len(windows)), key=lambda index: windows[index].start_ns)
    latest: dict[tuple[str, str], int] = {}
    for index in order:
        window = windows[index]
        if window.start_ns == window.end_ns:
            continue
        key = (window.host, window.domain)
        other = latest.get(key)
        if other is not None and window.start_ns < windows[other].end_ns:
            shared[index] = shared[other] = True
        if other is None or window.end_ns > windows[other].end_ns:
            latest[key] = index
    return shared


def _union(ordered: Sequence[HostWindow]) -> HostEnergy:
    """Add what each window has beyond the end of those before it; they come in the order of their starts."""
    energy_uj = covered_ns = 0
    end_ns, end_uj = ordered[0].start_ns, ordered[0].start_uj
    for window in ordered:
        if window.end_ns <= end_ns:
            continue
        start_ns, start_uj = window.start_ns, window.start_uj
        if start_ns < end_ns:
            start_ns, start_uj = end_ns, end_uj
        energy_uj += counter_difference(start_uj, window.end_uj, window.range_uj)
        covered_ns += window.end_ns - start_ns
        end_ns, end_uj = window.end_ns, window.end_uj
    first = ordered[0]
    return HostEnergy(
        host=first.host,
        domain=first.domain,
        energy_j=energy_uj * 1e-6,
        seconds=covered_ns * 1e-9,
        windows=len(ordered),
    )
