"""RAPL through perf_event: 64-bit counts of the PMU ``power``, which never wrap.

    /sys/bus/event_source/devices/power/type                      number of the PMU
    /sys/bus/event_source/devices/power/cpumask                   one CPU per socket
    /sys/bus/event_source/devices/power/events/energy-pkg         event=0x02
    /sys/bus/event_source/devices/power/events/energy-pkg.scale   joules per count, 2⁻³²
    /sys/bus/event_source/devices/power/events/energy-pkg.unit    Joules

A count starts at 0 when its event is opened. (Linux, arch/x86/events/rapl.c; perf_event_open(2);
Documentation/ABI/testing/sysfs-bus-event_source-devices-events.)
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Protocol

from calibration_data import CounterSpec, NoUsableSensorError, domain_kind, total_domains
from profiler.errors import SensorMissingError, SensorPermissionError, SensorReadError
from profiler.permissions import PERF_REMEDY, perf_event_paranoid
from profiler.sensors.base import Reading
from profiler.sensors.left_out import LeftOut
from profiler.sensors.powercap import RAPL_EXCLUDES, RAPL_RESOLUTION_UJ, RAPL_UPDATE_PERIOD_S

PERF_ROOT = Path("/sys/bus/event_source/devices/power")
CPU_ROOT = Path("/sys/devices/system/cpu")

EVENT_KINDS = {
    "energy-pkg": "package",
    "energy-cores": "core",
    "energy-gpu": "uncore",
    "energy-ram": "dram",
    "energy-psys": "psys",
}
"""What each event of the PMU counts (arch/x86/events/rapl.c)."""

_PERF_EVENT_OPEN = {"x86_64": 298, "AMD64": 298}
_CLOSE_ON_EXEC = 8
_ATTRIBUTE_BYTES = 64  # PERF_ATTR_SIZE_VER0
_COUNT_BYTES = 8
_EVENT = re.compile(r"event=(0x[0-9a-fA-F]+)")


class Event(Protocol):
    """An open event."""

    def count(self) -> int:
        """Counts since it was opened.

        Raises:
            OSError: the kernel refuses.
        """
        ...

    def close(self) -> None:
        """Give it back."""
        ...


class OpenEvent(Protocol):
    """Opens an event of a PMU for all that runs on a socket."""

    def __call__(self, *, pmu: int, config: int, cpu: int) -> Event:
        """Open.

        Raises:
            OSError: the kernel refuses (EACCES or EPERM: this user may not).
        """
        ...


class _Attribute(ctypes.Structure):
    """``struct perf_event_attr`` in its first version; all that is 0 is the default."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("config", ctypes.c_uint64),
        ("rest", ctypes.c_uint64 * 6),
    )


@dataclass(frozen=True)
class KernelEvent:
    """An event that the kernel counts."""

    descriptor: int

    def count(self) -> int:
        """Counts since it was opened.

        Raises:
            OSError: the kernel refuses, or gives no whole count.
        """
        content = os.read(self.descriptor, _COUNT_BYTES)
        if len(content) != _COUNT_BYTES:
            raise OSError(0, "the event is disabled")
        return int.from_bytes(content, "little")

    def close(self) -> None:
        """Give it back."""
        os.close(self.descriptor)


def open_kernel_event(*, pmu: int, config: int, cpu: int) -> KernelEvent:
    """Open an event of the kernel for every process on a CPU, as perf_event_open(2) does.

    Raises:
        OSError: the kernel refuses.
    """
    number = _PERF_EVENT_OPEN.get(platform.machine())
    if number is None:
        raise OSError(0, f"a {platform.machine()} has no RAPL")
    libc = ctypes.CDLL(None, use_errno=True)
    attribute = _Attribute(type=pmu, size=_ATTRIBUTE_BYTES, config=config)
    descriptor = libc.syscall(
        ctypes.c_long(number),
        ctypes.byref(attribute),
        ctypes.c_int(-1),
        ctypes.c_int(cpu),
        ctypes.c_int(-1),
        ctypes.c_ulong(_CLOSE_ON_EXEC),
    )
    if descriptor < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return KernelEvent(int(descriptor))


@dataclass(frozen=True, kw_only=True)
class _Counter:
    domain: str
    source: str
    event: Event
    uj_per_count: Fraction

    def read_uj(self) -> int:
        try:
            count = self.event.count()
        except OSError as error:
            raise SensorReadError(
                f"The perf event of {self.domain} could not be read: {error.strerror}.",
                next_step="No joules are reported without it; look at the sensor with: calijoule devices.",
            ) from error
        return count * self.uj_per_count.numerator // self.uj_per_count.denominator


class PerfSensor:
    """RAPL domains of one machine through perf_event.

    Args:
        root: folder of the PMU.
        cpu_root: folder of the CPUs' topology.
        open_event: opens an event.
        agreed: domains that the other interface shows too; others are left out. None: all are read.

    Attributes:
        left_out: events that are not read, with the reasons.

    Raises:
        SensorMissingError: there is no such PMU, or nothing that it counts is known.
        SensorPermissionError: this user may not open its events.
    """

    notes: tuple[str, ...] = ()

    def __init__(
        self,
        root: Path = PERF_ROOT,
        *,
        cpu_root: Path = CPU_ROOT,
        open_event: OpenEvent = open_kernel_event,
        agreed: Collection[str] | None = None,
    ) -> None:
        pmu = _number(root / "type")
        sockets = _sockets(root, cpu_root)
        counters: list[_Counter] = []
        left_out: list[LeftOut] = []
        try:
            for path, cpu, domain in _domains(root, sockets):
                if agreed is not None and domain not in agreed:
                    counter: _Counter | str = f"powercap does not show {domain}, so it is not trusted"
                else:
                    counter = _opened(path, domain, pmu, cpu, open_event)
                if isinstance(counter, _Counter):
                    counters.append(counter)
                else:
                    left_out.append(LeftOut(source=f"{path} of CPU {cpu}", reason=counter))
        except NoUsableSensorError:
            _close(counters)
            raise
        if not total_domains(counter.domain for counter in counters):
            _close(counters)
            reasons = "; ".join(f"{item.source}: {item.reason}" for item in left_out)
            raise SensorMissingError(
                f"The PMU {root} counts no energy of a package or of DRAM. {reasons}".rstrip(),
                next_step="Use the powercap backend.",
            )
        self._counters = tuple(counters)
        self.left_out = tuple(left_out)
        self._specs = tuple(
            CounterSpec(
                domain=counter.domain,
                interface="perf",
                source=counter.source,
                resolution_uj=RAPL_RESOLUTION_UJ,
                update_period_s=RAPL_UPDATE_PERIOD_S,
                excludes=RAPL_EXCLUDES.get(domain_kind(counter.domain), ""),
            )
            for counter in counters
        )

    @property
    def specs(self) -> tuple[CounterSpec, ...]:
        """One spec per event that is read."""
        return self._specs

    def read(self) -> Reading:
        """All events now; the time is the middle of the reads.

        Raises:
            SensorReadError: the kernel refuses an event.
        """
        started_ns = time.monotonic_ns()
        energy_uj = {counter.domain: counter.read_uj() for counter in self._counters}
        ended_ns = time.monotonic_ns()
        return Reading(
            time_ns=(started_ns + ended_ns) // 2, energy_uj=energy_uj, read_ns=ended_ns - started_ns
        )

    def close(self) -> None:
        """Give every event back; a second call does nothing."""
        _close(self._counters)
        self._counters = ()


def _close(counters: Sequence[_Counter]) -> None:
    for counter in counters:
        counter.event.close()


def _domains(root: Path, sockets: list[tuple[int, str]]) -> list[tuple[Path, int, str]]:
    """Event file, CPU and domain of all that the PMU counts, sockets in order, packages first."""
    found = []
    for position, (cpu, socket) in enumerate(sockets):
        for name, kind in EVENT_KINDS.items():
            path = root / "events" / name
            # The platform is one, as its powercap zone is; the kernel shows its counter on every socket.
            if path.exists() and (kind != "psys" or position == 0):
                found.append((path, cpu, kind if kind == "psys" else f"{kind}-{socket}"))
    return found


def _opened(path: Path, domain: str, pmu: int, cpu: int, open_event: OpenEvent) -> _Counter | str:
    """An open counter, or the reason why there is none.

    Raises:
        SensorPermissionError: this user may not open it.
    """
    texts = [
        _text(path),
        _text(path.with_name(f"{path.name}.scale")),
        _text(path.with_name(f"{path.name}.unit")),
    ]
    event = _EVENT.fullmatch(texts[0])
    if event is None:
        return f"its event {texts[0]!r} cannot be understood"
    try:
        uj_per_count = Fraction(texts[1]) * 1_000_000
    except (ValueError, ZeroDivisionError):
        uj_per_count = Fraction(0)
    if uj_per_count <= 0 or texts[2] != "Joules":
        return f"its scale is {texts[1]!r} and its unit {texts[2]!r}, not a number of Joules"
    try:
        opened = open_event(pmu=pmu, config=int(event.group(1), 16), cpu=cpu)
    except PermissionError as error:
        raise SensorPermissionError(
            f"This user may not open the perf event of {domain}: {error.strerror}"
            f" (kernel.perf_event_paranoid is {perf_event_paranoid()}).",
            next_step=PERF_REMEDY,
        ) from error
    except OSError as error:
        return f"its event cannot be opened: {error.strerror}"
    return _Counter(domain=domain, source=f"{path} of CPU {cpu}", event=opened, uj_per_count=uj_per_count)


def _sockets(root: Path, cpu_root: Path) -> list[tuple[int, str]]:
    """One CPU of each socket, and the number of the socket.

    Raises:
        SensorMissingError: there is no PMU, or one socket has several CPUs in the mask.
    """
    sockets: dict[int, int] = {}
    for cpu in _cpu_list(root / "cpumask"):
        socket = _number(cpu_root / f"cpu{cpu}/topology/physical_package_id")
        if socket in sockets:
            raise SensorMissingError(
                f"Package {socket} counts by dies, and perf does not tell whether they mirror one counter.",
                next_step="Use the powercap backend, which does.",
            )
        sockets[socket] = cpu
    return [(sockets[socket], str(socket)) for socket in sorted(sockets)]


def _cpu_list(path: Path) -> list[int]:
    """CPUs of a list like ``0,18`` or ``0-3`` (cpumask of a PMU)."""
    text = _text(path)
    cpus: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part, re.ASCII)
        if match is None:
            raise SensorMissingError(f"{path} should list CPUs and holds {text[:40]!r}.")
        first, last = int(match.group(1)), int(match.group(2) or match.group(1))
        cpus.extend(range(first, last + 1))
    return cpus


def _number(path: Path) -> int:
    text = _text(path)
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise SensorMissingError(f"{path} should hold a whole number and holds {text[:40]!r}.")
    return int(text)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError as error:
        raise SensorMissingError(
            f"perf_event has no RAPL counters here: {path} cannot be read ({error.strerror}).",
            next_step="Load the kernel's driver (modprobe rapl); virtual machines have none.",
        ) from error
