"""Which counters' ticks a window waits for, and being there when slow ones tick.

Counters that tick every few milliseconds are waited for at both edges. Waiting for one that ticks ten times
a second would cost a window as much as it measures, twice; its ticks are watched in the background instead,
where they are expected, so that a window can begin at any moment and only its end waits:

    tick ┈┈┈┈┈┈┈┈┈ tick ┈┈ begin ═══ work ═══ end ┈┈ tick
    (watched)    (watched)                         (waited for)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import floor
from typing import Literal

from profiler.clock import Clock
from profiler.counters import Counters, Tick
from profiler.ticks import POLLS_PER_PERIOD, SPIN_BELOW_S, discover_ticks, leading_domains, with_variation

Align = Literal["auto", "always", "never"]

LONGEST_ALIGNED_PERIOD_S = 0.5
"""``auto`` does not wait for counters that tick less often."""

JUST_NOW = 0.3
"""A window that begins within this part of an update period after a tick begins at the tick."""

CLOSELY = 0.01
"""A tick that is known to this part of the update period, whole width, need not be waited for again."""

STILL_THE_LAST = 1.25
"""A tick is taken for the last one for so many update periods."""

MARGIN = 0.02
"""A slow counter is watched for at least this part of its period around the moment when a tick is due."""

RECENT = 32
"""Ticks of a slow counter that tell how much its power varies of late."""

MARGIN_JITTERS = 3.0
"""And for so many standard deviations of the time between its ticks."""


class Alignment:
    """What is worth waiting for.

    Args:
        counters: whose ticks.
        clock: theirs.
        align: as for ``EnergyMeter``.

    Attributes:
        leading: domains whose ticks decide.
        worth_it: those of them for whose ticks it is worth to wait.
        at_any_price: whether to wait for one more tick of slow counters too.
    """

    def __init__(self, counters: Counters, clock: Clock, align: Align) -> None:
        self.leading = frozenset(leading_domains(counters.specs))
        self._counters = counters
        self._clock = clock
        self._align = align
        self.at_any_price = align == "always"
        self._anchor_s: dict[str, float] = {}
        self._recent: dict[str, deque[Tick]] = {domain: deque(maxlen=RECENT) for domain in counters.specs}
        self.worth_it = self._worth_it()

    def discover(self) -> None:
        """Read the counters, and learn how they tick if any of them is to be waited for.

        Raises:
            MeasurementError: a reading failed or cannot be trusted.
        """
        if self.worth_it:
            discover_ticks(self._counters, self._clock)
            self.worth_it = self._worth_it()
        else:
            self._counters.read()

    def expected(self) -> frozenset[str]:
        """Those whose ticks have been seen and can be read quickly enough to see them."""
        return frozenset(
            domain
            for domain in self.worth_it
            if self._counters.timing[domain].discovered and domain not in self._counters.slow
        )

    def before_begin(self) -> frozenset[str]:
        """Those whose next tick a window waits for before it begins, as of the last reading."""
        ticks, now_s = self._counters.ticks(), self._counters.read_s
        waiting = set()
        for domain in self.expected():
            tick, period_s = ticks[domain], self._counters.timing[domain].period_s
            since = (now_s - tick.time_s) / period_s
            if self._is_slow(domain):
                closely = 2 * tick.half_width_s <= CLOSELY * period_s
                known = tick.power_w is not None and closely and since < STILL_THE_LAST
            else:
                known = tick.sharp and since <= JUST_NOW
            if not known:
                waiting.add(domain)
        return frozenset(waiting)

    def watched(self) -> frozenset[str]:
        """Slow counters that are watched in the background."""
        return frozenset(domain for domain in self.expected() if self._is_slow(domain))

    def watch(self, read: Callable[[], bool], for_s: float) -> None:
        """Read closely around the ticks of slow counters that are due soon.

        Args:
            read: reads the counters once; False if somebody else is reading them, who sees the ticks then.
            for_s: ticks that are due later are left alone.
        """
        until_s = self._now_s() + for_s
        while (next_due := self._next_due()) is not None:
            domain, from_s, to_s = next_due
            if from_s > until_s:
                return
            self._clock.sleep(max(0.0, from_s - self._now_s()))
            before = self._counters.ticks().get(domain)
            pause_s = self._counters.timing[domain].period_s / POLLS_PER_PERIOD
            while self._now_s() < to_s and self._counters.ticks().get(domain) == before:
                if not read():
                    return
                self._clock.sleep(pause_s)
            self._note_powers()

    def _note_powers(self) -> None:
        """Counters may tick together: what one was watched for is seen of all."""
        ticks = self._counters.ticks()
        for domain in self.watched() & set(ticks):
            tick, recent = ticks[domain], self._recent[domain]
            if tick.power_w is not None and (not recent or recent[-1] != tick):
                recent.append(tick)
                self._counters.timing[domain] = with_variation(self._counters.timing[domain], recent)

    def _next_due(self) -> tuple[str, float, float] | None:
        """The slow counter that ticks next, and from when to when it is to be watched."""
        due = []
        now_s, ticks = self._now_s(), self._counters.ticks()
        for domain in self.watched() & set(ticks):
            tick, timing = ticks[domain], self._counters.timing[domain]
            if tick.sharp:
                self._anchor_s[domain] = tick.time_s
            anchor_s = self._anchor_s.get(domain, tick.time_s)
            margin_s = max(MARGIN_JITTERS * timing.jitter_s, MARGIN * timing.period_s)
            periods = max(1, floor((now_s - margin_s - anchor_s) / timing.period_s) + 1)
            due_s = anchor_s + periods * timing.period_s
            if due_s + margin_s <= now_s:
                due_s += timing.period_s
            due.append((due_s - margin_s, due_s + margin_s, domain))
        if not due:
            return None
        from_s, to_s, domain = min(due)
        return domain, from_s, to_s

    def _is_slow(self, domain: str) -> bool:
        return self._counters.timing[domain].period_s >= SPIN_BELOW_S

    def _now_s(self) -> float:
        return self._clock.now_ns() * 1e-9

    def _worth_it(self) -> frozenset[str]:
        if self._align == "never":
            return frozenset()
        if self._align == "always":
            return self.leading
        return frozenset(
            domain
            for domain in self.leading
            if self._counters.specs[domain].interface != "simulated"
            and self._counters.timing[domain].period_s <= LONGEST_ALIGNED_PERIOD_S
        )
