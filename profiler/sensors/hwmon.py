"""Energy and power of boards through the kernel's hwmon files.

Rails of a Jetson (INA3221), and any chip that shows ``energy*_input`` or ``power*_input``.

Rails overlap: the input rail of a board (``VDD_IN``) feeds the others, and hwmon does not say which. Each is
therefore a domain of its own, and none is added to a total.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from calibration_data import CounterSpec
from profiler.clock import Clock, MonotonicClock
from profiler.errors import SensorMissingError, SensorPermissionError, SensorReadError
from profiler.sensors.base import Reading
from profiler.sensors.hwmon_channels import Channel, find_channels
from profiler.sensors.left_out import LeftOut
from profiler.sensors.power_integral import POLL_PERIOD_S, integral_of
from profiler.sensors.powercap import read_counter_uj

HWMON_ROOT = Path("/sys/class/hwmon")
"""Where Linux shows the chips; a container may see the host's elsewhere."""

POWER_RESOLUTION_UW = 1000.0
"""Chips round to about a milliwatt."""

RAIL_EXCLUDES = "other rails of its board, unless they are fed through it; rails are not added to a total"


class HwmonSensor:
    """Energy counters and integrated powers of all chips that tell any.

    Args:
        root: the hwmon folder.
        clock: drives the poller of powers; no poller runs where there are only counters.

    Attributes:
        left_out: what was found and is not read, with the reasons.
        notes: how the numbers come about.

    Raises:
        SensorMissingError: no chip tells energy or power.
        SensorPermissionError: chips do, and this user may read none of them.
    """

    def __init__(self, root: Path = HWMON_ROOT, *, clock: Clock | None = None) -> None:
        channels, left_out = find_channels(root)
        self._channels, unreadable = _readable(channels)
        self.left_out = (*left_out, *unreadable)
        self._stop_polling: Callable[[], None] | None = None
        if not self._channels:
            reasons = "; ".join(f"{item.source}: {item.reason}" for item in self.left_out)
            raise SensorMissingError(
                f"No chip at {root} tells energy or power. {reasons}".rstrip(),
                next_step="Boards with power monitors do (a Jetson's INA3221); most PCs have none.",
            )
        self._integrals = {spec.domain: integral_of(spec) for spec in self.specs if spec.kind == "power"}
        self.notes = tuple(f"{domain}: power, integrated" for domain in self._integrals)
        if self._integrals:
            self._poll()
            self._stop_polling = (clock or MonotonicClock()).every(POLL_PERIOD_S, self._poll)

    @property
    def specs(self) -> tuple[CounterSpec, ...]:
        """One spec per channel."""
        return tuple(_spec(channel) for channel in self._channels)

    def read(self) -> Reading:
        """All channels now; the time is the middle of the reads.

        Raises:
            SensorReadError: a file could not be read, or a power has a gap.
        """
        energy_uj: dict[str, int] = {}
        started_ns = time.monotonic_ns()
        for channel in self._channels:
            if channel.is_counter:
                energy_uj[channel.domain] = read_counter_uj(str(channel.files[0]))
            else:
                energy_uj[channel.domain] = self._integrals[channel.domain].energy_uj(time.monotonic_ns())
        ended_ns = time.monotonic_ns()
        return Reading(
            time_ns=(started_ns + ended_ns) // 2, energy_uj=energy_uj, read_ns=ended_ns - started_ns
        )

    def close(self) -> None:
        """Stop the poller; a second call does nothing."""
        if self._stop_polling is not None:
            self._stop_polling()
            self._stop_polling = None

    def _take(self, channel: Channel) -> None:
        started_ns = time.monotonic_ns()
        power_uw = read_power_uw(channel)
        self._integrals[channel.domain].add((started_ns + time.monotonic_ns()) // 2, power_uw)

    def _poll(self) -> None:
        for channel in self._channels:
            if not channel.is_counter:
                try:
                    self._take(channel)
                except SensorReadError as error:
                    # Kept until the next read, which raises it.
                    self._integrals[channel.domain].fail(error)


def read_power_uw(channel: Channel) -> int:
    """Power of a channel now; of a rail voltage (mV) times current (mA), which are µW.

    Raises:
        SensorReadError: a file cannot be read or holds no whole number ≥ 0.
    """
    power_uw = 1
    for file in channel.files:
        power_uw *= read_counter_uj(str(file))
    return power_uw


def _readable(channels: list[Channel]) -> tuple[tuple[Channel, ...], tuple[LeftOut, ...]]:
    """Try every channel once.

    Raises:
        SensorPermissionError: there are channels and this user may read none.
    """
    readable: list[Channel] = []
    failed: list[LeftOut] = []
    forbidden: list[SensorReadError] = []
    for channel in channels:
        try:
            read_power_uw(channel)
            readable.append(channel)
        except SensorReadError as error:
            failed.append(LeftOut(source=str(channel.files[0]), reason=error.message))
            if isinstance(error.__cause__, PermissionError):
                forbidden.append(error)
    if forbidden and not readable:
        raise SensorPermissionError(
            forbidden[0].message,
            next_step="Let your group read the chip's files: chgrp and chmod g+r in a udev rule for hwmon.",
        )
    return tuple(readable), tuple(failed)


def _spec(channel: Channel) -> CounterSpec:
    source = " × ".join(str(file) for file in channel.files)
    if channel.is_counter:
        return CounterSpec(
            domain=channel.domain,
            interface="hwmon",
            source=source,
            resolution_uj=1.0,
            update_period_s=channel.update_period_s,
            excludes=RAIL_EXCLUDES,
        )
    window_s = channel.averaging_window_s or channel.update_period_s
    period_s = max(channel.update_period_s, window_s)
    return CounterSpec(
        domain=channel.domain,
        kind="power",
        interface="hwmon",
        source=f"{source}, integrated every {POLL_PERIOD_S:g} s",
        resolution_uj=POWER_RESOLUTION_UW * period_s,
        update_period_s=period_s,
        averaging_window_s=window_s,
        excludes=RAIL_EXCLUDES,
    )
