"""The machine and the process that a client runs in: who they are, and what the counters showed meanwhile."""

from __future__ import annotations

import fcntl
import logging
import math
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from calibration_data import MeasurementError, NoUsableSensorError, total_domains
from cwmp.flower.windows import HostWindow
from profiler.device import Device
from profiler.sensors.base import Reading

log = logging.getLogger(__name__)

MAX_POWER_W = 1000.0
"""No domain draws more: a window in which it could have wrapped its counter has no joules."""

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Which machine this is, since it was last booted; its containers share it and its counters."""
    return BOOT_ID.read_text().strip()


class StartUp:
    """Seconds from the start of this process to the first task that it begins, and 0 for later ones."""

    def __init__(self) -> None:
        self._served = False

    def seconds(self) -> float:
        """Of the task that begins now."""
        if self._served:
            return 0.0
        self._served = True
        return _process_age_s()


def _process_age_s() -> float:
    # The 22nd field of proc(5)'s stat; the second one, a name in parentheses, may hold spaces.
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    started_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return max(time.clock_gettime(time.CLOCK_BOOTTIME) - started_s, 0.0)


STARTED = StartUp()
"""Of this process; apps are loaded again for each message, this module is not."""


@contextmanager
def alone_on_host(device: Device | None) -> Iterator[None]:
    """Wait until no other client on this machine measures: they would see one another's joules.

    Clients that cannot share the lock (other users, other file systems) show up as overlapping windows.
    """
    if device is None or device.provenance != "measured":
        yield
        return
    descriptor = None
    with suppress(OSError):
        path = Path(tempfile.gettempdir()) / f"calijoule-{boot_id()}.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


class HostWindows:
    """Counters of the machine at the edges of a client's work; none of a simulated device: nobody shares it.

    Args:
        device: whose sensors see the work; None has none.
    """

    def __init__(self, device: Device | None) -> None:
        self._sensors = () if device is None or device.provenance != "measured" else tuple(device.sensors)
        self._before: Sequence[Reading] = ()

    def open(self) -> None:
        """Read the counters at the first edge; without them there are no windows."""
        self._before = self._read()

    def close(self) -> tuple[HostWindow, ...]:
        """Read the counters at the second edge: one window for each domain of the total."""
        host, afterwards = boot_id(), self._read()
        windows: list[HostWindow] = []
        for sensor, before, after in zip(self._sensors, self._before, afterwards, strict=False):
            most_uj = (after.time_ns - before.time_ns) * 1e-3 * MAX_POWER_W
            ranges_uj = {spec.domain: spec.range_uj for spec in sensor.specs}
            windows += [
                HostWindow(
                    host=host,
                    domain=domain,
                    start_ns=before.time_ns,
                    end_ns=after.time_ns,
                    start_uj=before.energy_uj[domain],
                    end_uj=after.energy_uj[domain],
                    range_uj=ranges_uj[domain],
                )
                for domain in total_domains(before.energy_uj)
                if most_uj < (ranges_uj[domain] or math.inf)
            ]
        return tuple(windows)

    def _read(self) -> Sequence[Reading]:
        """All counters now; none if one of them cannot be read, which costs the joules and not the round."""
        try:
            return [sensor.read() for sensor in self._sensors]
        except (MeasurementError, NoUsableSensorError) as error:
            log.warning("The counters of this machine were not read: %s", error)
            return ()
