"""Joules of one window in one domain, and their uncertainty, from the ticks around its edges.

    opening tick ─ begin ═══════════ work ═══════════ end ┈┈┈ tail ┈┈┈ closing tick
         t0          b                                 e                    t1

What the counter moved from ``t0`` to ``t1`` belongs to a span that is a little longer than the window; the
energy outside the window is taken off:

    no tick watched     E = ΔE                                         the ticks are the uncertainty
    steady power        E = ΔE · (e - b) / (t1 - t0)                   nothing to know but times
    changing power      E = ΔE - P_head · (b - t0) - P_tail · (t1 - e)  P_tail from the update period after
                                                                       the tail if there is one, else from
                                                                       that in which the window ends

Power counts as changing where the last update period differs from the whole, where the power before the
window did, or where it changed from tick to tick when the counter was discovered. The uncertainties of the
tail and of the ticks' times are rectangular distributions (GUM 4.3.7) and join in quadrature.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import hypot, sqrt
from typing import NamedTuple

from calibration_data import WindowFlag
from profiler.counters import IDLE_PERIODS, PLAUSIBLE_POWER_W, Tick, TickTiming

SIGNIFICANT = 3.0
"""Two powers differ if they are this many standard uncertainties apart."""

STEADY_REL = 0.002
"""Powers that differ by less count as one; nothing is steadier."""

WITHIN_TICK = 1.65
"""Power varies more within an update period than its means from one to the next. Square waves with about
two ticks in their period, the least favourable, need this factor for intervals that hold
(benchmarks/windows.py)."""

NEGLIGIBLE = 5e-4
"""A tail that is uncertain by less than this part of the window's energy needs no further tick."""

WHOLE_PERIOD = 0.8
"""So much of an update period between two ticks is a whole one: they come a little early or late."""

LONG_PERIOD = 1.5
"""Two ticks further apart than this had another between them."""

LONG_READ_S = 0.05
"""Where the edges and their reads are this far apart, what was counted is scaled to the window."""

CALL_S = 5e-6
"""The work begins and stops up to so long after and before the edges' times: calls and returns."""

SHORT_TICKS = 1.0
"""Windows below this many update periods are called short."""


class Span(NamedTuple):
    """One domain's ticks around a window.

    Attributes:
        domain: its name.
        begin_s, end_s: edges of the window.
        opening: last tick before the begin.
        first: the first tick in the window, where slow ticks are watched; None if it was not seen.
        at_end: last tick before the end.
        closing: the tick up to which energy is counted: the first after the end if the end was aligned,
            else ``at_end``.
        following: the tick after ``closing``, where it was waited for.
        read_s: time from the reading that saw ``opening`` to that which saw ``at_end``.
        outside_w: mean power between the window before (or the discovery) and this one; None if unknown.
        timing: how the counter ticks.
    """

    domain: str
    begin_s: float
    end_s: float
    opening: Tick
    first: Tick | None
    at_end: Tick
    closing: Tick
    following: Tick | None
    read_s: float
    outside_w: float | None
    timing: TickTiming

    @property
    def duration_s(self) -> float:
        """Length of the window."""
        return self.end_s - self.begin_s

    @property
    def length_s(self) -> float:
        """Time from the opening to the closing tick."""
        return self.closing.time_s - self.opening.time_s

    @property
    def moved_j(self) -> float:
        """Energy from the opening to the closing tick."""
        return (self.closing.total_uj - self.opening.total_uj) * 1e-6

    @property
    def tail_s(self) -> float:
        """Time from the end to the closing tick; negative if that was before the end."""
        return self.closing.time_s - self.end_s

    @property
    def head_s(self) -> float:
        """Time from the opening tick to the begin."""
        return self.begin_s - self.opening.time_s

    @property
    def last_period_s(self) -> float:
        """Length of the update period in which the window ends."""
        return self.closing.time_s - self.at_end.time_s if self.at_end.sharp else self.timing.period_s

    @property
    def inner_w(self) -> float | None:
        """Mean power from the first tick in the window to the last, where there is a period between them."""
        begin = self.opening if self.first is None else self.first
        whole_s = self.closing.time_s - self.last_period_s - begin.time_s
        if whole_s < WHOLE_PERIOD * self.timing.period_s:
            return None
        return (self.at_end.total_uj - begin.total_uj) * 1e-6 / whole_s

    @property
    def aligned(self) -> bool:
        """Whether both edges were watched."""
        return self.opening.sharp and self.closing.sharp and self.closing.total_uj != self.at_end.total_uj

    @property
    def mean_w(self) -> float:
        """Mean power from tick to tick."""
        return self.moved_j / self.length_s

    @property
    def mean_u_w(self) -> float:
        """Standard uncertainty of ``mean_w`` from the times of its ticks."""
        return self.mean_w * self.edges_u_s / self.length_s

    @property
    def edges_u_s(self) -> float:
        """Standard uncertainty of ``length_s``."""
        return hypot(self.opening.half_width_s, self.closing.half_width_s) / sqrt(3)


class WindowEnergy(NamedTuple):
    """Joules of one domain, the standard uncertainty from tick, times and resolution, and what to know."""

    energy_j: float
    u_j: float
    flags: tuple[WindowFlag, ...] = ()


def window_energy(span: Span) -> WindowEnergy:
    """Energy between the edges of a window."""
    flags: tuple[WindowFlag, ...] = ()
    if span.duration_s < SHORT_TICKS * span.timing.period_s:
        flags += ("short",)
    if span.moved_j <= 0 or span.length_s <= 0:
        return _unmoved(span, flags)
    if not span.aligned:
        return _unwatched(span)._replace(flags=flags)
    if not power_changes(span):
        return WindowEnergy(energy_j=_at_mean_power(span), u_j=_steady_u_j(span), flags=flags)
    return _changing(span)._replace(flags=(*flags, "power changed"))


def power_changes(span: Span) -> bool:
    """Whether the power near the end is known to differ from that of the whole."""
    return span.timing.variation_w > 0 or last_period_differs(span) or outside_differs(span)


def needs_following_tick(span: Span) -> bool:
    """Whether the power just after an aligned window would make its energy better known."""
    if not span.aligned or span.length_s <= 0 or span.moved_j <= 0:
        return False
    difference_w = 0.0
    if last_period_differs(span):
        difference_w = abs((span.closing.power_w or 0.0) - span.mean_w)
    if outside_differs(span):
        difference_w = max(difference_w, abs((_outside(span)[0] or 0.0) - span.mean_w))
    return difference_w * span.tail_s > NEGLIGIBLE * _at_mean_power(span)


def last_period_differs(span: Span) -> bool:
    """Whether the update period in which the window ends differs from the whole window."""
    last_w = span.closing.power_w
    return last_w is not None and _differ(span, last_w, span.closing.power_u_w)


def outside_differs(span: Span) -> bool:
    """Whether the power before the window differs from that of the window, beyond its usual variation."""
    outside_w, u_w = _outside(span)
    return outside_w is not None and _differ(span, outside_w, hypot(u_w, span.timing.variation_w))


def _outside(span: Span) -> tuple[float | None, float]:
    """Power just before the window, else the mean since the window before; and its uncertainty."""
    if span.opening.power_w is not None:
        return span.opening.power_w, span.opening.power_u_w
    return span.outside_w, 0.0


def _differ(span: Span, power_w: float, u_w: float) -> bool:
    floor_w = STEADY_REL * span.mean_w + span.timing.resolution_uj * 1e-6 / span.timing.period_s
    return abs(power_w - span.mean_w) > SIGNIFICANT * hypot(u_w, span.mean_u_w) + floor_w


def _at_mean_power(span: Span) -> float:
    return span.moved_j * span.duration_s / span.length_s


def _steady_u_j(span: Span) -> float:
    share = span.duration_s / span.length_s
    step_u_j = span.timing.resolution_uj * 1e-6 / sqrt(6)
    call_u_j = span.mean_w * CALL_S * sqrt(2 / 3)
    return hypot(share * span.mean_w * span.edges_u_s, share * step_u_j, call_u_j)


def _unmoved(span: Span, flags: tuple[WindowFlag, ...]) -> WindowEnergy:
    """The counter stood still: as much as it can have missed, if its power is known at all."""
    known_w = span.outside_w
    if known_w is None:
        known_w = PLAUSIBLE_POWER_W if span.duration_s < IDLE_PERIODS * span.timing.period_s else 0.0
    u_j = hypot(known_w * span.timing.period_s, span.timing.resolution_uj * 1e-6) / sqrt(6)
    return WindowEnergy(energy_j=0.0, u_j=u_j, flags=(*flags, "unmoved"))


def _unwatched(span: Span) -> WindowEnergy:
    """What the counter moved: right on average over windows at random phase, however short they are."""
    energy_j = span.moved_j
    if abs(span.read_s - span.duration_s) > max(LONG_READ_S, span.timing.period_s):
        # The reads themselves took long: what was counted belongs to them too.
        energy_j *= span.duration_s / span.read_s
    return WindowEnergy(
        energy_j=energy_j,
        u_j=unwatched_u_j(energy_j, span.duration_s, span.opening, span.closing, span.timing),
    )


def unwatched_u_j(
    energy_j: float, duration_s: float, opening: Tick, closing: Tick, timing: TickTiming
) -> float:
    """Each edge falls anywhere in an update period: a rectangle of width power × period."""
    half_s = timing.period_s / 2
    width_s = hypot(max(opening.half_width_s, half_s), max(closing.half_width_s, half_s))
    return hypot(energy_j / duration_s * width_s / sqrt(3), timing.resolution_uj * 1e-6 / sqrt(6))


def _changing(span: Span) -> WindowEnergy:
    if span.at_end.total_uj == span.opening.total_uj:
        inside_j, split_u_j = _within_one_period(span)
        head_w = tail_w = span.mean_w
        closing_share, following_u_j = 1.0, 0.0
    else:
        head_w, head_u_j = _head(span)
        tail_w, tail_u_j = _tail(span)
        inside_j = span.moved_j - head_w * span.head_s - tail_w * span.tail_s
        # The parts of neighbouring update periods may err alike, of distant ones not.
        split_u_j = head_u_j + tail_u_j if span.inner_w is None else hypot(head_u_j, tail_u_j)
        closing_share, following_u_j = _following(span)
    # The power at each edge is near that of its own update period.
    closing_u_j = closing_share * tail_w * span.closing.half_width_s
    edges_u_j = hypot(head_w * span.opening.half_width_s, closing_u_j, following_u_j) / sqrt(3)
    step_u_j = span.timing.resolution_uj * 1e-6 / sqrt(6)
    u_j = hypot(edges_u_j, step_u_j, split_u_j, _unseen_u_j(span))
    return WindowEnergy(energy_j=max(0.0, inside_j), u_j=u_j)


def _unseen_u_j(span: Span) -> float:
    """What a sensor that averages over a part of each update period cannot have seen of the rest.

    The error of each period is taken as independent of the next; power in step with the counter errs more.
    """
    periods = max(1.0, span.duration_s / span.timing.period_s)
    return span.timing.variation_w * span.timing.unseen_s * sqrt(periods)


def _within_one_period(span: Span) -> tuple[float, float]:
    """Joules of a window without a tick in it, and how uncertain it is what was outside."""
    outside_s = span.length_s - span.duration_s
    before_w, _ = _outside(span)
    after_w = None if span.following is None else span.following.power_w
    others_j = []
    if before_w is not None and after_w is not None:
        # Where power stepped from one to the other, if it did, is not known.
        others_j = [before_w * outside_s, after_w * outside_s, before_w * span.head_s + after_w * span.tail_s]
    elif before_w is not None:
        others_j = [before_w * outside_s]
    outside_j, u_j = _share(span, span.moved_j, outside_s, span.duration_s, others_j)
    return span.moved_j - outside_j, u_j


def _head(span: Span) -> tuple[float, float]:
    """Power from the opening tick to the begin, and the uncertainty of its joules."""
    before_w = span.mean_w if span.opening.power_w is None else span.opening.power_w
    first = span.first
    period_s = 0.0 if first is None else first.time_s - span.opening.time_s
    if first is None or not span.head_s < period_s < LONG_PERIOD * span.timing.period_s:
        # The window began at the tick, or the next one was missed.
        varies_w = max(WITHIN_TICK * span.timing.variation_w, abs(before_w - span.mean_w) / sqrt(3))
        return before_w, varies_w * abs(span.head_s)
    period_j = (first.total_uj - span.opening.total_uj) * 1e-6
    others_j = [before_w * span.head_s]
    if span.inner_w is not None:
        others_j.append(period_j - span.inner_w * (period_s - span.head_s))
    head_j, u_j = _share(span, period_j, span.head_s, period_s - span.head_s, others_j)
    return head_j / span.head_s, u_j


def _tail(span: Span) -> tuple[float, float]:
    """Power from the end to the closing tick, and the uncertainty of its joules."""
    if span.following is not None and span.following.power_w is not None:
        return span.following.power_w, 0.0
    # Where the period began is known no better than the ticks come regularly.
    inside_s = max(span.timing.jitter_s, span.last_period_s - span.tail_s)
    period_s = inside_s + span.tail_s
    last_w = span.mean_w if span.closing.power_w is None else span.closing.power_w
    others_j = []
    if span.inner_w is not None:
        others_j.append(last_w * period_s - span.inner_w * inside_s)
    elif outside_differs(span):
        others_j.append((_outside(span)[0] or 0.0) * span.tail_s)
    tail_j, u_j = _share(span, last_w * period_s, span.tail_s, inside_s, others_j)
    return tail_j / span.tail_s, hypot(u_j, span.closing.power_u_w * span.tail_s)


def _share(
    span: Span, period_j: float, outside_s: float, inside_s: float, others_j: Sequence[float]
) -> tuple[float, float]:
    """What the part of an update period outside the window took of the period's energy.

    If power changes from tick to tick, then within them too: with independent deviations of σ in the two
    parts x and y, the even split of the period's energy is uncertain by σ·x·y/√(x² + y²). If it was steady
    and has stepped, the even split (the step is elsewhere) competes with what the powers on either side
    say (the step is at the window's edge): their mean, and a rectangle as wide as they differ.

    Args:
        span: of the window.
        period_j: energy of the update period.
        outside_s: its part outside the window.
        inside_s: the rest.
        others_j: joules of the outer part by the powers around.

    Returns:
        Joules of the outer part and their standard uncertainty.
    """
    even_j = period_j * outside_s / (outside_s + inside_s)
    sigma_w = WITHIN_TICK * span.timing.variation_w
    if sigma_w > 0:
        return even_j, sigma_w * outside_s * inside_s / hypot(outside_s, inside_s)
    # Both sides known, nothing speaks for the even split.
    guesses_j = [*others_j] if len(others_j) > 1 else [even_j, *others_j]
    guesses_j = [min(max(guess_j, 0.0), period_j) for guess_j in guesses_j]
    mean_j = sum(guesses_j) / len(guesses_j)
    return mean_j, max(abs(guess_j - mean_j) for guess_j in guesses_j) * 2 / sqrt(3)


def _following(span: Span) -> tuple[float, float]:
    """How often the closing tick's time counts, and what that of the tick after it adds."""
    following = span.following
    if following is None or following.power_w is None:
        return 1.0, 0.0
    # The closing tick is an end of the tail and of the period whose power the tail is given.
    periods = span.tail_s / (following.time_s - span.closing.time_s)
    return 1.0 + periods, following.power_w * periods * following.half_width_s
