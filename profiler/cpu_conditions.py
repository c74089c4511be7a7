"""State of a CPU that can change between two measurements, as far as this machine shows it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

SYS_ROOT = Path("/sys")
PROC_ROOT = Path("/proc")

_TEMPERATURE_SENSORS = frozenset({"coretemp", "k10temp", "zenpower", "cpu_thermal"})
_TURBO = {
    "devices/system/cpu/intel_pstate/no_turbo": {"0": "on", "1": "off"},
    "devices/system/cpu/cpufreq/boost": {"1": "on", "0": "off"},
}


def cpu_conditions(
    cpus: Sequence[int], *, sys_root: Path = SYS_ROOT, proc_root: Path = PROC_ROOT
) -> dict[str, str]:
    """Governor, clocks, temperature and other users of the machine; what cannot be read is left out.

    Args:
        cpus: logical CPUs of the device.
        sys_root: where sysfs is mounted.
        proc_root: where procfs is mounted.

    Returns:
        text by name: ``governor``, ``frequency_mhz`` (lowest and highest now), ``turbo``, ``smt``,
        ``huge_pages``, ``temperature_c`` (package), ``load_average_1min``, ``other_running_tasks``.
    """
    cpu_root = sys_root / "devices/system/cpu"
    load = (_read(proc_root / "loadavg") or "").split()
    conditions = {
        "governor": _joined(_read(cpu_root / f"cpu{cpu}/cpufreq/scaling_governor") for cpu in cpus),
        "frequency_mhz": _frequency_mhz(cpus, cpu_root, proc_root),
        "turbo": _joined(states.get(_read(sys_root / path) or "") for path, states in _TURBO.items()),
        "smt": _read(cpu_root / "smt/control"),
        "huge_pages": _chosen(_read(sys_root / "kernel/mm/transparent_hugepage/enabled")),
        "temperature_c": _temperature_c(sys_root),
        "load_average_1min": load[0] if load else None,
        # "3/120" counts the task that reads it.
        "other_running_tasks": str(int(load[3].split("/")[0]) - 1) if len(load) > 3 else None,
    }
    return {name: text for name, text in conditions.items() if text}


def throttle_events(cpus: Sequence[int], *, sys_root: Path = SYS_ROOT) -> int:
    """Times that these cores or their package ran slower for heat since boot; 0 where nothing counts them."""
    root = sys_root / "devices/system/cpu"
    paths = [root / f"cpu{cpu}/thermal_throttle/core_throttle_count" for cpu in cpus]
    paths += [root / f"cpu{cpu}/thermal_throttle/package_throttle_count" for cpu in cpus[:1]]
    return sum(int(text) for text in map(_read, paths) if text)


def cpu_model_name(proc_root: Path = PROC_ROOT) -> str:
    """The maker's name of the processor; "unknown CPU" where the kernel does not tell."""
    text = _read(proc_root / "cpuinfo") or ""
    match = re.search(r"^(?:model name|Model|cpu|Hardware)\s*:\s*(\S.*)$", text, re.MULTILINE)
    return match.group(1).strip() if match else "unknown CPU"


def _frequency_mhz(cpus: Sequence[int], cpu_root: Path, proc_root: Path) -> str | None:
    texts = [_read(cpu_root / f"cpu{cpu}/cpufreq/scaling_cur_freq") for cpu in cpus]
    megahertz = [int(text) / 1000 for text in texts if text]
    if not megahertz:
        cpuinfo = _read(proc_root / "cpuinfo") or ""
        megahertz = [float(text) for text in re.findall(r"^cpu MHz\s*:\s*([\d.]+)", cpuinfo, re.MULTILINE)]
    return f"{min(megahertz):.0f}-{max(megahertz):.0f}" if megahertz else None


def _temperature_c(sys_root: Path) -> str | None:
    """Hottest first sensor of the CPU drivers: the package on Intel, the control value on AMD."""
    millidegrees = [
        int(text)
        for name in sorted(sys_root.glob("class/hwmon/hwmon*/name"))
        if _read(name) in _TEMPERATURE_SENSORS and (text := _read(name.with_name("temp1_input")))
    ]
    return f"{max(millidegrees) / 1000:.1f}" if millidegrees else None


def _chosen(text: str | None) -> str | None:
    match = re.search(r"\[(\w+)\]", text or "")
    return match.group(1) if match else None


def _joined(texts: Iterable[str | None]) -> str | None:
    return ", ".join(sorted({text for text in texts if text})) or None


def _read(path: Path) -> str | None:
    """Text of a file, or None where this machine or this user does not have it."""
    try:
        return path.read_text().strip()
    except OSError:
        return None
