"""What samples of a sensor tell about it: its tick, and the window over which it averages.

    load     ▁▁██▁▁▁███▁▁█▁▁▁▁██▁    bursts of known times
    sensor   ·  │ ·  │ ·  │ ·  │     one value per tick: the mean over the last w seconds, d seconds ago

Power that a sensor shows at a tick is low + (high − low)·x, with x the share of the window that was busy. So
for each w and d on a grid the two powers follow by least squares, and the best w is the one that leaves the
least: the square wave of arXiv 2312.02741, with bursts of random length. A rhythm of period P could not
tell a window w from P + w or P − w, since one whole period holds the same wherever it begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Samples = Sequence[tuple[float, float]]
"""Seconds and value, in the order of time."""

WINDOW_STEPS, DELAY_STEPS = 60, 80
LONGEST_DELAY_S = 0.2


@dataclass(frozen=True, kw_only=True)
class TickFound:
    """How often a value changes.

    Attributes:
        period_s: median time between changes.
        spread_s: half the range between the 5th and the 95th percentile of it.
        changes: number of them.
    """

    period_s: float
    spread_s: float
    changes: int

    def document(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class WindowFound:
    """Over what a sensor averages.

    Attributes:
        window_s: length of the average.
        delay_s: from its end to the tick.
        coverage: window / tick; what part of the time is seen at all.
        low_w: power between bursts, as the sensor shows it.
        high_w: power in bursts.
        explained: share of the variance of the readings that the fit explains.
        readings: number of them.
    """

    window_s: float
    delay_s: float
    coverage: float
    low_w: float
    high_w: float
    explained: float
    readings: int

    def document(self) -> dict[str, Any]:
        return asdict(self)


def changes_of(samples: Samples) -> list[tuple[float, float]]:
    """The first sample of each new value; the very first is not known to be one."""
    return [after for before, after in pairwise(samples) if after[1] != before[1]]


def find_tick(samples: Samples) -> TickFound | None:
    """Time between changes of a value; None for fewer than ten changes."""
    times = np.array([time_s for time_s, _ in changes_of(samples)])
    if times.size < 10:
        return None
    gaps = np.diff(times)
    low, high = np.percentile(gaps, [5, 95])
    return TickFound(period_s=float(np.median(gaps)), spread_s=float(high - low) / 2, changes=int(times.size))


def powers_of_counter(samples: Samples) -> list[tuple[float, float]]:
    """Mean power over each tick of a counter of joules, at the end of the tick."""
    ticks = changes_of(samples)
    return [
        (end_s, (end_j - begin_j) / (end_s - begin_s))
        for (begin_s, begin_j), (end_s, end_j) in pairwise(ticks)
        if end_s > begin_s
    ]


def busy_share(bursts: Sequence[tuple[float, float]], end_s: Floats, window_s: float) -> Floats:
    """Busy part of windows that end at some times.

    Args:
        bursts: begin and end, in the order of time, apart from each other.
        end_s: shape (n,).
        window_s: length of each.
    """
    edges = np.array(bursts, dtype=float).reshape(-1)
    busy = np.concatenate([[0.0], np.cumsum(np.diff(edges) * (np.arange(edges.size - 1) % 2 == 0))])

    def busy_until(times: Floats) -> Floats:
        return np.interp(times, edges, busy)

    return (busy_until(end_s) - busy_until(end_s - window_s)) / window_s


def find_window(
    bursts: Sequence[tuple[float, float]], readings: Samples, *, tick_s: float, longest_s: float
) -> WindowFound | None:
    """Fit the averaging window of a sensor to its response to bursts.

    Args:
        bursts: begin and end of each, of random length and distance, many in a tick or two.
        readings: time of each tick and the power that it showed.
        tick_s: of the sensor.
        longest_s: no longer window is tried.

    Returns:
        the best fit; None where the readings do not vary or are fewer than 20.
    """
    times = np.array([time_s for time_s, _ in readings])
    watts = np.array([power_w for _, power_w in readings])
    # Windows must lie in what is known of the load.
    known = (times - 2 * longest_s > bursts[0][0]) & (times < bursts[-1][1])
    times, watts = times[known], watts[known]
    total = float(((watts - watts.mean()) ** 2).sum()) if watts.size else 0.0
    if watts.size < 20 or total == 0:
        return None
    best: tuple[float, float, float, float, float] | None = None
    shortest_s = longest_s / 100
    for window_s in np.geomspace(shortest_s, longest_s, WINDOW_STEPS):
        for delay_s in np.linspace(0, LONGEST_DELAY_S, DELAY_STEPS):
            left, low_w, rise_w = _fitted(busy_share(bursts, times - delay_s, window_s), watts)
            if best is None or left < best[0]:
                best = (left, float(window_s), float(delay_s), low_w, rise_w)
    assert best is not None
    best = _refined(bursts, times, watts, best)
    left, window_s, delay_s, low_w, rise_w = best
    return WindowFound(
        window_s=window_s,
        delay_s=delay_s,
        coverage=window_s / tick_s,
        low_w=low_w,
        high_w=low_w + rise_w,
        explained=1 - left / total,
        readings=int(watts.size),
    )


def _refined(
    bursts: Sequence[tuple[float, float]],
    times: Floats,
    watts: Floats,
    best: tuple[float, float, float, float, float],
) -> tuple[float, float, float, float, float]:
    """Smaller and smaller steps around the best point of the grid."""
    step_w, step_d = 0.05 * best[1], 0.05 * best[1]
    for _ in range(8):
        for window_s in best[1] + step_w * np.arange(-2, 3):
            for delay_s in best[2] + step_d * np.arange(-2, 3):
                if window_s <= 0 or delay_s < 0:
                    continue
                left, low_w, rise_w = _fitted(busy_share(bursts, times - delay_s, window_s), watts)
                if left < best[0]:
                    best = (left, float(window_s), float(delay_s), low_w, rise_w)
        step_w, step_d = step_w / 2, step_d / 2
    return best


def _fitted(share: Floats, watts: Floats) -> tuple[float, float, float]:
    """Sum of squares left by watts = low + rise·share, and the two."""
    centred = share - share.mean()
    spread = float((centred**2).sum())
    rise_w = float((centred * watts).sum()) / spread if spread > 0 else 0.0
    low_w = float(watts.mean() - rise_w * share.mean())
    return float(((watts - low_w - rise_w * share) ** 2).sum()), low_w, rise_w
