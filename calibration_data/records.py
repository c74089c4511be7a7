"""The record: everything measured about one configuration of one microbenchmark, in one line of JSON.

Raw replicates are kept; means and deviations are derived where they are needed and never stored.

History of the format:
    1   first version
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
)

from calibration_data.files import Frozen
from calibration_data.quantities import CounterSpec, MemoryHierarchy, Work
from calibration_data.terms import POWER_TERMS, TERMS

RECORD_SCHEMA: Final = "calijoule/record"
RECORD_SCHEMA_VERSION: Final = 1

Name = Annotated[str, Field(min_length=1, max_length=200)]
Text = Annotated[str, Field(max_length=2000)]
Joules = Annotated[dict[Name, NonNegativeFloat], Field(min_length=1, max_length=64)]


def _only_operations(amounts: dict[str, float]) -> dict[str, float]:
    for name in amounts:
        if name not in TERMS:
            raise ValueError(f"{name!r} is not a term of the energy model")
        if name in POWER_TERMS:
            raise ValueError(f"{name!r} is a time; it belongs to the windows, not to the work of one loop")
    return amounts


WorkAmounts = Annotated[dict[Name, NonNegativeFloat], AfterValidator(_only_operations)]


class Window(Frozen):
    """One measurement window as it was read.

    Attributes:
        started_s: start in seconds since the campaign's process began.
        duration_s: elapsed seconds between the two readings.
        active_s: seconds in which at least one core was awake.
        busy_core_s: busy seconds summed over cores.
        energy_j: gross joules by domain.
        quantisation_u_j: standard uncertainty by domain from tick and resolution.
        notes: what a reader must know (throttled, short against the tick, ...).
    """

    started_s: NonNegativeFloat
    duration_s: PositiveFloat
    active_s: NonNegativeFloat = 0.0
    busy_core_s: NonNegativeFloat = 0.0
    energy_j: Joules
    quantisation_u_j: dict[Name, NonNegativeFloat] = Field(default_factory=dict)
    notes: tuple[Text, ...] = ()


class DeviceFingerprint(Frozen):
    """What a device is; records are combined into one model only where this agrees.

    Attributes:
        device: as given on the command line: ``cpu``, ``cuda:0``, ``sim:server-cpu``, ``sim:FILE``.
        kind: ``cpu``, ``cuda`` or ``simulated``.
        model_name: the maker's name of the part.
        memory: cache sizes, line size and number of cores.
    """

    device: Name
    kind: Literal["cpu", "cuda", "simulated"]
    model_name: Text
    memory: MemoryHierarchy


class CampaignId(Frozen):
    """Which campaign a record belongs to; ``--resume`` continues only the same one."""

    plan: Literal["quick", "full"]
    seed: int
    digest: Name


class CalibrationRecord(Frozen):
    """One configuration: its exact work, every raw window, and where they were taken.

    Attributes:
        point: name of the configuration, unique within a campaign.
        family: microbenchmarks that share a kernel; the unit of leave-one-family-out.
        threads: cores that run the kernel.
        level: memory level in which the working set lives, if it has one.
        work_per_loop: exact amounts of one loop over all threads, by term.
        loops: loops in each replicate window.
        replicates: raw windows that count.
        warm_ups: raw windows that were run first and do not count.
        dropped: raw windows that were refused, each with its reason in ``notes``.
        idle_before: idle window just before the configuration.
        idle_after: idle window just after it.
        sensors: what each domain's counter is.
        software: versions by name.
        conditions: state of the machine that can change (governor, temperature, ...).
    """

    schema_name: Literal["calijoule/record"] = Field(default=RECORD_SCHEMA, alias="schema")
    schema_version: Literal[1] = RECORD_SCHEMA_VERSION
    campaign: CampaignId
    point: Name
    family: Name
    threads: Annotated[int, Field(ge=0, le=100_000)]
    level: Literal["l1", "l2", "llc", "dram"] | None = None
    working_set_bytes: PositiveInt | None = None
    work_per_loop: WorkAmounts
    loops: Annotated[int, Field(ge=1, le=10**15)]
    replicates: Annotated[tuple[Window, ...], Field(min_length=1)]
    warm_ups: tuple[Window, ...] = ()
    dropped: tuple[Window, ...] = ()
    idle_before: Window
    idle_after: Window
    device: DeviceFingerprint
    sensors: Annotated[tuple[CounterSpec, ...], Field(min_length=1)]
    software: dict[Name, Text]
    conditions: dict[Name, Text] = Field(default_factory=dict)
    provenance: Literal["measured", "simulated"]
    created: Name

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_by_name=True, validate_by_alias=True
    )

    def window_work(self, window: Window) -> Work:
        """Amounts of every term in one replicate window, times included."""
        work = Work(self.work_per_loop) * self.loops
        return work.over(
            duration_s=window.duration_s, active_s=window.active_s, busy_core_s=window.busy_core_s
        )

    def model_post_init(self, context: Any, /) -> None:
        """Every window must speak of the same domains, and no core can be busier than the window is long."""
        domains = {spec.domain for spec in self.sensors}
        for window in (*self.replicates, *self.warm_ups, *self.dropped, self.idle_before, self.idle_after):
            if set(window.energy_j) != domains:
                raise ValueError(
                    f"a window reads {sorted(window.energy_j)}, the sensors are {sorted(domains)}"
                )
            limit = window.duration_s * (1 + 1e-6)
            if window.active_s > limit or window.busy_core_s > limit * max(self.device.memory.cores, 1):
                raise ValueError("a window's active or busy core seconds exceed its duration")
        if not math.isfinite(sum(self.work_per_loop.values()) * self.loops):
            raise ValueError("the amounts of work overflow")


def record_json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of one record, as written in ``calibration_data/schema``."""
    return CalibrationRecord.model_json_schema(by_alias=True)
