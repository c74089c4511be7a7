"""State of a GPU that can change: clock, temperature, power limit, and what holds its clock down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from profiler.sensors.nvml_fields import FieldKey, read_fields

POLICY_FIELDS: Mapping[FieldKey, str] = {
    (74, 0): "power limit",
    (75, 0): "heat",
    (77, 0): "board limit",
    (79, 0): "reliability",
}
"""Fields of the time that a policy has held the clock down since the driver was loaded (nvml.h,
NVML_FI_DEV_PERF_POLICY_*), and why it does."""

SLOWDOWN_BITS: Mapping[int, str] = {
    0x04: "power limit",
    0x08: "hardware slowdown",
    0x20: "heat",
    0x40: "heat (hardware)",
    0x80: "power brake",
}
"""Clock event reasons that hold a busy GPU down (nvml.h, nvmlClocksEventReason*)."""


@dataclass(frozen=True, kw_only=True)
class GpuConditions:
    """One look at a GPU; None and empty where it does not tell.

    Attributes:
        sm_clock_mhz: of its multiprocessors.
        temperature_c: of the chip.
        power_limit_w: that is enforced.
        slowed_now: what holds its clock down at this moment.
        policy_times: time for which each policy has held it down so far, in units of the driver.
    """

    sm_clock_mhz: int | None = None
    temperature_c: int | None = None
    power_limit_w: float | None = None
    slowed_now: tuple[str, ...] = ()
    policy_times: Mapping[str, int] = field(default_factory=dict)

    def slowed_since(self, before: GpuConditions) -> tuple[str, ...]:
        """What held the clock down between an earlier look and this one."""
        grown = [
            reason
            for reason, time in self.policy_times.items()
            if time > before.policy_times.get(reason, time)
        ]
        return tuple(dict.fromkeys((*grown, *self.slowed_now)))


def gpu_conditions(nvml: Any, handle: Any) -> GpuConditions:
    """Look at a GPU.

    Args:
        nvml: the pynvml module, initialised.
        handle: of the GPU.
    """

    def asked(call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(handle, *arguments)
        except nvml.NVMLError:
            return None

    limit_mw = asked(nvml.nvmlDeviceGetEnforcedPowerLimit)
    reasons = asked(nvml.nvmlDeviceGetCurrentClocksEventReasons) or 0
    try:
        fields = read_fields(nvml, handle, tuple(POLICY_FIELDS))
    except nvml.NVMLError:
        fields = {}
    return GpuConditions(
        sm_clock_mhz=asked(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM),
        temperature_c=asked(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
        power_limit_w=None if limit_mw is None else limit_mw / 1000,
        slowed_now=tuple(name for bit, name in SLOWDOWN_BITS.items() if reasons & bit),
        policy_times={
            POLICY_FIELDS[key]: found.value for key, found in fields.items() if found.value is not None
        },
    )
