"""Joules of a command, by domain, gross and net.

    idle window ─ begin ─ child process runs ─ end ─ joules

The child keeps its standard streams and its exit code. Its joules are the whole machine's while it ran; net
is gross less idle power × duration, so it is the command's own only where nothing else ran beside it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from math import hypot, inf
from pathlib import Path

from calibration_data import UsageError, WindowReading, total_domains
from profiler.idle import IdleBaseline, measure_idle
from profiler.meter import EnergyMeter
from profiler.sensors import RealSensor

INTERRUPT_GRACE_S = 0.5
"""How long an interrupted child may take to stop by itself before it is told to."""

TERMINATE_GRACE_S = 5.0
"""How long a child that was told to stop may take before it is killed."""

DOCUMENT_SCHEMA = "calijoule/measurement"
DOCUMENT_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class CommandEnergy:
    """Joules of a command in one domain, or in the total.

    Attributes:
        domain: ``package-0``, ..., or ``total``.
        gross_j: energy while the command ran.
        gross_u_j: its standard uncertainty from tick and resolution; the sensor's gain error comes on top.
        net_j: gross less idle energy; None where the idle power is not known.
        net_u_j: standard uncertainty of ``net_j``.
        net_missing_reason: why there is no ``net_j``; empty where there is one.
    """

    domain: str
    gross_j: float
    gross_u_j: float
    net_j: float | None
    net_u_j: float | None
    net_missing_reason: str


@dataclass(frozen=True, kw_only=True)
class MeasureResult:
    """What a command cost.

    Attributes:
        command: the command and its arguments.
        exit_code: of the child; 128 + n if signal n ended it.
        duration_s: from just before its start to just after its end.
        domains: one entry per domain.
        total: packages + DRAM + GPUs, each once, never the platform, cores or uncore; None where none of
            the first is measured.
        idle: the idle baseline; None if none was taken.
    """

    command: tuple[str, ...]
    exit_code: int
    duration_s: float
    domains: tuple[CommandEnergy, ...]
    total: CommandEnergy | None
    idle: IdleBaseline | None


def measure_command(argv: Sequence[str], meter: EnergyMeter, *, idle_s: float = 1.0) -> MeasureResult:
    """Run a command in a measurement window.

    Args:
        argv: the command and its arguments; no shell reads them.
        meter: counts all domains.
        idle_s: length of the idle window before the command, in seconds; 0 for none.

    Raises:
        UsageError: the command cannot be started, or ``idle_s`` is negative or not finite.
        MeasurementError: a reading failed or cannot be trusted; the command has run to its end all the same.
        KeyboardInterrupt: the user interrupted; the child has been stopped.
    """
    if not 0 <= idle_s < inf:
        raise UsageError(f"The idle window cannot last {idle_s} s.")
    idle = measure_idle(meter, idle_s) if idle_s else None
    with meter.window("command") as window:
        exit_code = _run(argv)
    domains = tuple(_command_energy(domain, window.reading, idle) for domain in window.reading.energy_j)
    return MeasureResult(
        command=tuple(argv),
        exit_code=exit_code,
        duration_s=window.reading.duration_s,
        domains=domains,
        total=_total(domains),
        idle=idle,
    )


def _run(argv: Sequence[str]) -> int:
    try:
        child = subprocess.Popen(argv)
    except OSError as error:
        raise UsageError(f"{argv[0]} cannot be started: {error.strerror}.") from error
    try:
        code = child.wait()
    except BaseException:
        _stop(child)
        raise
    return code if code >= 0 else 128 - code


def _stop(child: subprocess.Popen[bytes]) -> None:
    try:
        # Ctrl-C on a terminal reached the child too; let it end in its own way first.
        with suppress(subprocess.TimeoutExpired):
            child.wait(INTERRUPT_GRACE_S)
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(TERMINATE_GRACE_S)
    finally:
        child.kill()
        child.wait()


def _command_energy(domain: str, reading: WindowReading, idle: IdleBaseline | None) -> CommandEnergy:
    gross_j = reading.energy_j[domain]
    gross_u_j = reading.quantisation_u_j[domain]
    net_j = net_u_j = None
    reason = ""
    if gross_j == 0:
        reason = "the counter did not move while the command ran"
    elif idle is None:
        reason = "no idle window was taken"
    elif domain not in idle.power_w:
        reason = f"the counter did not move in the idle window of {idle.duration_s:.3g} s"
    else:
        net_j = gross_j - idle.power_w[domain] * reading.duration_s
        net_u_j = hypot(gross_u_j, idle.standard_uncertainty_w[domain] * reading.duration_s)
    return CommandEnergy(
        domain=domain,
        gross_j=gross_j,
        gross_u_j=gross_u_j,
        net_j=net_j,
        net_u_j=net_u_j,
        net_missing_reason=reason,
    )


def _total(domains: Sequence[CommandEnergy]) -> CommandEnergy | None:
    """Sum of the domains that make the total, their uncertainties taken as independent."""
    counted = total_domains(energy.domain for energy in domains)
    parts = [energy for energy in domains if energy.domain in counted]
    if not parts:
        return None
    nets = [(energy.net_j, energy.net_u_j) for energy in parts]
    known = [(net_j, u_j) for net_j, u_j in nets if net_j is not None and u_j is not None]
    complete = len(known) == len(parts)
    return CommandEnergy(
        domain="total",
        gross_j=sum(energy.gross_j for energy in parts),
        gross_u_j=hypot(*(energy.gross_u_j for energy in parts)),
        net_j=sum(net_j for net_j, _ in known) if complete else None,
        net_u_j=hypot(*(u_j for _, u_j in known)) if complete else None,
        net_missing_reason="; ".join(
            f"{energy.domain}: {energy.net_missing_reason}" for energy in parts if energy.net_missing_reason
        ),
    )


def measurement_document(
    result: MeasureResult, *, sensors: Sequence[RealSensor], powercap_root: Path
) -> dict[str, object]:
    """The result as plain JSON values: joules and seconds, and whole microjoules where they were counted."""
    return {
        "schema": DOCUMENT_SCHEMA,
        "schema_version": DOCUMENT_SCHEMA_VERSION,
        "provenance": "measured",
        "command": list(result.command),
        "exit_code": result.exit_code,
        "duration_s": result.duration_s,
        "domains": [_energy_document(energy) for energy in result.domains],
        "total": None if result.total is None else _energy_document(result.total),
        "idle": None if result.idle is None else asdict(result.idle),
        "powercap_root": str(powercap_root),
        "sensors": [asdict(spec) for sensor in sensors for spec in sensor.specs],
        "left_out": [asdict(item) for sensor in sensors for item in sensor.left_out],
    }


def _energy_document(energy: CommandEnergy) -> dict[str, object]:
    # A double holds every whole microjoule up to 9 GJ, so rounding gives back what was counted.
    return {
        **asdict(energy),
        "gross_uj": round(energy.gross_j * 1e6),
        "in_total": energy.domain == "total" or bool(total_domains([energy.domain])),
    }
