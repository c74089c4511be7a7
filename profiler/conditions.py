"""The state of the machine around a window: clocks, temperatures, throttling, power limits, filtering.

    conditions before ─ begin ═ work ═ end ─ conditions after      what changed in between becomes a note

Throttling is told by counters that only rise (the kernel's per core, NVML's policy times), so that a window
is known to be touched by it even if nothing throttles any more when it is looked at.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from calibration_data import NoUsableSensorError
from profiler.cpu_conditions import PROC_ROOT, SYS_ROOT, cpu_conditions, throttle_events
from profiler.sensors.nvml import NvmlSensor
from profiler.sensors.nvml_conditions import GpuConditions, gpu_conditions
from profiler.sensors.powercap import POWERCAP_ROOT
from profiler.sensors.zones import find_zones

AT_LIMIT = 0.97
"""Mean power above this part of a power limit is power held down by it."""

FILTERING_NOTE = (
    "this processor has SGX, with which energy filtering may be on: RAPL is then blurred by up to 50 % in"
    " short windows (Intel, CVE-2020-8694), while means over seconds stay right"
)


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What could be read at one moment; what this machine or this user does not have is left out.

    Attributes:
        cpu: governor, clocks, temperature, load (see ``cpu_conditions``).
        cpu_throttle_events: times that cores ran slower for heat since boot.
        power_limits_w: long-term power limit by RAPL domain.
        gpus: by domain.
        energy_filtering_possible: whether RAPL may be blurred on purpose.
    """

    cpu: Mapping[str, str] = field(default_factory=dict)
    cpu_throttle_events: int = 0
    power_limits_w: Mapping[str, float] = field(default_factory=dict)
    gpus: Mapping[str, GpuConditions] = field(default_factory=dict)
    energy_filtering_possible: bool = False

    def document(self) -> dict[str, object]:
        """As plain JSON values."""
        return asdict(self)


def read_conditions(
    sensors: Iterable[object] = (),
    *,
    powercap_root: Path = POWERCAP_ROOT,
    sys_root: Path = SYS_ROOT,
    proc_root: Path = PROC_ROOT,
) -> Conditions:
    """Look at the machine now.

    Args:
        sensors: those in use; GPUs are looked at through the NVML sensor among them.
        powercap_root: the powercap folder.
        sys_root: where sysfs is mounted.
        proc_root: where procfs is mounted.
    """
    cpus = range(os.cpu_count() or 1)
    return Conditions(
        cpu=cpu_conditions(cpus, sys_root=sys_root, proc_root=proc_root),
        cpu_throttle_events=throttle_events(cpus, sys_root=sys_root),
        power_limits_w=_power_limits_w(powercap_root),
        gpus={
            gpu.domain: gpu_conditions(gpu.nvml, gpu.handle)
            for sensor in sensors
            if isinstance(sensor, NvmlSensor)
            for gpu in sensor.gpus
        },
        energy_filtering_possible=energy_filtering_possible(proc_root),
    )


def condition_notes(
    before: Conditions, after: Conditions, *, power_w: Mapping[str, float] | None = None
) -> tuple[str, ...]:
    """What happened between two looks that a reader of the joules must know.

    Args:
        before: at the begin.
        after: at the end.
        power_w: mean power in between by domain, to be held against the power limits.
    """
    notes = []
    throttled = after.cpu_throttle_events - before.cpu_throttle_events
    if throttled > 0:
        notes.append(f"the processor ran slower for heat ({throttled} throttle events)")
    for domain, mean_w in (power_w or {}).items():
        limit_w = after.power_limits_w.get(domain)
        if limit_w and mean_w > AT_LIMIT * limit_w:
            notes.append(f"{domain} ran at its power limit of {limit_w:.0f} W")
    for domain, gpu in after.gpus.items():
        if domain in before.gpus:
            reasons = gpu.slowed_since(before.gpus[domain])
            if reasons:
                notes.append(f"{domain} ran slower: {', '.join(reasons)}")
    return tuple(notes)


def energy_filtering_possible(proc_root: Path = PROC_ROOT) -> bool:
    """Whether the processor has SGX, with which its firmware may blur RAPL.

    The switch itself stands in a register that users cannot read; the flag says that it may be on.
    """
    try:
        text = (proc_root / "cpuinfo").read_text()
    except OSError:
        return False
    flags = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return flags is not None and "sgx" in flags.group(1).split()


def _power_limits_w(powercap_root: Path) -> dict[str, float]:
    """Long-term limits (constraint 0) of the zones that have one."""
    try:
        zones = find_zones(powercap_root).zones
    except NoUsableSensorError:
        return {}
    limits_w = {}
    for zone in zones:
        try:
            text = (zone.folder / "constraint_0_power_limit_uw").read_text().strip()
        except OSError:
            continue
        if re.fullmatch(r"\d{1,12}", text, re.ASCII):
            limits_w[zone.domain] = int(text) / 1e6
    return limits_w
