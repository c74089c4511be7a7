"""How long a campaign takes, before it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from calibration_data import total_domains
from profiler.device import Device
from profiler.plan import Plan

OVERHEAD_S = 0.5
"""Allocating, compiling and starting threads, for each configuration."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Expected duration of a campaign.

    Attributes:
        window_s: of each replicate window.
        idle_s: of each idle window.
        most_replicates: of each configuration.
        expected_s: where every configuration repeats at once within its target.
        longest_s: where every one takes as many replicates as it may; throttling comes on top.
        families: configurations and expected seconds by family, in the order of the plan.
    """

    window_s: float
    idle_s: float
    most_replicates: int
    expected_s: float
    longest_s: float
    families: Mapping[str, tuple[int, float]]


def make_schedule(plan: Plan, device: Device) -> Schedule:
    """Windows, warm-ups and idle windows of a plan on a device, the pre-heating included."""
    protocol = plan.protocol
    window_s, idle_s = window_seconds(plan, device), idle_seconds(plan, device)
    # Finding the loop count takes about one window more than the warm-up.
    fixed_s = 2 * window_s + 2 * idle_s + OVERHEAD_S
    point_s = protocol.replicates * window_s + fixed_s
    count = {point.family: 0 for point in plan.points}
    for point in plan.points:
        count[point.family] += 1
    return Schedule(
        window_s=window_s,
        idle_s=idle_s,
        most_replicates=most_replicates(plan, device),
        expected_s=protocol.preheat_s + len(plan.points) * point_s,
        longest_s=protocol.preheat_s
        + len(plan.points) * (most_replicates(plan, device) * window_s + fixed_s),
        families={family: (number, number * point_s) for family, number in count.items()},
    )


def window_seconds(plan: Plan, device: Device) -> float:
    """Duration of a replicate window: long enough in seconds and in ticks of the slowest counter."""
    return max(plan.protocol.window_s, plan.protocol.ticks * slowest_tick_s(device))


def most_replicates(plan: Plan, device: Device) -> int:
    """Replicates of a configuration whose mean stays uncertain."""
    return max(plan.protocol.replicates, int(plan.protocol.longest_s / window_seconds(plan, device)))


def idle_seconds(plan: Plan, device: Device) -> float:
    """Duration of an idle window."""
    return max(plan.protocol.idle_s, window_seconds(plan, device) / 2)


def slowest_tick_s(device: Device) -> float:
    """Longest update period of the counters of the total, or of all where nothing is one.

    What is only shown beside them, such as a GPU's memory power averaged over a second, need not fit.
    """
    periods_s = {
        spec.domain: spec.update_period_s or 0.0 for sensor in device.sensors for spec in sensor.specs
    }
    return max(periods_s[domain] for domain in total_domains(periods_s) or periods_s)
