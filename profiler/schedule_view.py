"""The schedule of a campaign for readers: a table, a sentence, JSON."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from calibration_data.families import HELD_OUT_FAMILIES, TOGGLE_FAMILY
from profiler.plan import Plan
from profiler.schedule import Schedule


def minutes(schedule: Schedule, *, virtual: bool) -> str:
    """How many configurations, and how long they take."""
    count = sum(number for number, _ in schedule.families.values())
    kind = " of virtual time" if virtual else ""
    return (
        f"{count} configurations, about {schedule.expected_s / 60:.0f} minutes{kind}, at most "
        f"{schedule.longest_s / 60:.0f} where windows scatter."
    )


def print_schedule(console: Console, plan: Plan, schedule: Schedule) -> None:
    """What would run: families, configurations and minutes, and how each configuration is measured."""
    table = Table("family", "configurations", "minutes", "use")
    for family, (count, seconds) in schedule.families.items():
        table.add_row(family, str(count), f"{seconds / 60:.1f}", _use(family))
    console.print(table)
    protocol = plan.protocol
    console.print(
        f"Pre-heating {protocol.preheat_s:.0f} s. Each configuration: an idle window of {schedule.idle_s:g} s"
        f" before and after, {protocol.replicates} to {schedule.most_replicates} windows of"
        f" {schedule.window_s:g} s, until the 95 % interval of their mean is below"
        f" ± {protocol.target_rel_ci:.1%}.",
        markup=False,
        soft_wrap=True,
    )


def _use(family: str) -> str:
    if family == TOGGLE_FAMILY:
        return "band of zeros"
    return "judges the model" if family in HELD_OUT_FAMILIES else "fit"


def schedule_document(plan: Plan, schedule: Schedule, device: str) -> dict[str, Any]:
    """The same for programs, every configuration in its order."""
    return {
        "device": device,
        "plan": plan.name,
        "seed": plan.seed,
        "expected_s": schedule.expected_s,
        "longest_s": schedule.longest_s,
        "window_s": schedule.window_s,
        "idle_s": schedule.idle_s,
        "configurations": [
            {"point": point.point, "family": point.family, "held_out": point.family in HELD_OUT_FAMILIES}
            for point in plan.points
        ],
    }
