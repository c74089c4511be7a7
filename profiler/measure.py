"""Joules of a command, by domain, gross and net.

    conditions ─ idle window ─ begin ─ child process runs ─ end ─ (idle window) ─ conditions ─ joules

The child keeps its standard streams and its exit code. Its joules are the whole machine's while it ran; net
is gross less idle power × duration, so it is the command's own only where nothing else ran beside it.
"""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from math import hypot, inf
from pathlib import Path

from calibration_data import FLAG_MEANING, UsageError, WindowReading, says_nothing, total_domains
from profiler.conditions import FILTERING_NOTE, Conditions, condition_notes
from profiler.idle import IdleBaseline, mean_idle, measure_idle
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
        gross_u_j: its standard uncertainty from tick and resolution, and from the sensor's gain where it is
            known.
        net_j: gross less idle energy; None where the idle power is not known.
        net_u_j: standard uncertainty of ``net_j``.
        net_missing_reason: why there is no ``net_j``; empty where there is one.
        flags: what to know about the reading, such as ``stuck``.
    """

    domain: str
    gross_j: float
    gross_u_j: float
    net_j: float | None
    net_u_j: float | None
    net_missing_reason: str
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MeasureResult:
    """What a command cost.

    Attributes:
        command: the command and its arguments.
        exit_code: of the child; 128 + n if signal n ended it.
        duration_s: from just before its start to just after its end.
        domains: one entry per domain.
        total: packages + DRAM + GPUs, each once, never the platform, cores or uncore; None where none of
            the first is measured or the counter of one says nothing (stuck, or too slow for the command).
        idle: the idle baseline, of both windows together where two were taken; None if none was.
        before: conditions before the command; None if nobody looked.
        after: conditions after it.
        notes: what a reader of the joules must know.
    """

    command: tuple[str, ...]
    exit_code: int
    duration_s: float
    domains: tuple[CommandEnergy, ...]
    total: CommandEnergy | None
    idle: IdleBaseline | None
    before: Conditions | None = None
    after: Conditions | None = None
    notes: tuple[str, ...] = ()


def measure_command(
    argv: Sequence[str],
    meter: EnergyMeter,
    *,
    idle_s: float = 1.0,
    idle_after: bool = False,
    look: Callable[[], Conditions] | None = None,
) -> MeasureResult:
    """Run a command in a measurement window.

    Args:
        argv: the command and its arguments; no shell reads them.
        meter: counts all domains.
        idle_s: length of the idle window before the command, in seconds; 0 for none.
        idle_after: whether another follows the command, so that a drift of the idle power is seen.
        look: reads the conditions before and after; nobody looks where not given.

    Raises:
        UsageError: the command cannot be started, or ``idle_s`` is negative or not finite.
        MeasurementError: a reading failed or cannot be trusted; the command has run to its end all the same.
        KeyboardInterrupt: the user interrupted; the child has been stopped.
    """
    if not 0 <= idle_s < inf:
        raise UsageError(f"The idle window cannot last {idle_s} s.")
    before = look() if look else None
    idle = measure_idle(meter, idle_s) if idle_s else None
    with meter.window("command") as window:
        exit_code = _run(argv)
    after = look() if look else None
    if idle and idle_after:
        idle = mean_idle(idle, measure_idle(meter, idle_s))
    reading = window.reading
    domains = tuple(_command_energy(domain, reading, idle) for domain in reading.energy_j)
    return MeasureResult(
        command=tuple(argv),
        exit_code=exit_code,
        duration_s=reading.duration_s,
        domains=domains,
        total=_total(domains),
        idle=idle,
        before=before,
        after=after,
        notes=_notes(reading, before, after),
    )


def _notes(reading: WindowReading, before: Conditions | None, after: Conditions | None) -> tuple[str, ...]:
    notes = [
        f"{domain}: {FLAG_MEANING[flag]}"
        for domain, flags in reading.flags.items()
        for flag in flags
        if flag != "unmoved" or "stuck" not in flags
    ]
    if before and after:
        power_w = {domain: energy_j / reading.duration_s for domain, energy_j in reading.energy_j.items()}
        notes += condition_notes(before, after, power_w=power_w)
        if after.energy_filtering_possible:
            notes.append(FILTERING_NOTE)
    return tuple(notes)


def _run(argv: Sequence[str]) -> int:
    try:
        with _interrupts_kept() as interrupts:
            child = subprocess.Popen(argv)
    except OSError as error:
        raise UsageError(f"{argv[0]} cannot be started: {error.strerror}.") from error
    try:
        if interrupts:
            raise KeyboardInterrupt
        code = child.wait()
    except BaseException:
        _stop(child)
        raise
    return code if code >= 0 else 128 - code


@contextmanager
def _interrupts_kept() -> Iterator[list[int]]:
    """Keep Ctrl-C until the body is through: a child that is being made could not be stopped yet."""
    kept: list[int] = []
    # Only the main thread has signals.
    if threading.current_thread() is not threading.main_thread():
        yield kept
        return
    previous = signal.signal(signal.SIGINT, lambda number, _frame: kept.append(number))
    try:
        yield kept
    finally:
        signal.signal(signal.SIGINT, previous)


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
    gross_u_j = reading.standard_uncertainty_j(domain)
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
        flags=tuple(reading.flags.get(domain, ())),
    )


def _total(domains: Sequence[CommandEnergy]) -> CommandEnergy | None:
    """Sum of the domains that make the total, their uncertainties taken as independent."""
    counted = total_domains(energy.domain for energy in domains)
    parts = [energy for energy in domains if energy.domain in counted]
    if not parts or any(says_nothing(energy.flags) for energy in parts):
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
        "notes": list(result.notes),
        "conditions": {
            "before": None if result.before is None else result.before.document(),
            "after": None if result.after is None else result.after.document(),
        },
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
