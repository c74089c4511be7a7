"""What every figure of a cost model shares: a title with the provenance, colours, literal text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from calibration_data import total_domains
from calibration_data.records import CalibrationRecord, DeviceFingerprint, Window

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POINT = "#0072B2"
FAMILY_COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000")
"""Okabe and Ito, told apart by every kind of colour vision."""

LIMIT = "#D55E00"
GREY = "#CCCCCC"


def new_figure(*, width: float, height: float) -> Figure:
    """An empty figure without a window, in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def title(what: str, device: DeviceFingerprint | None, provenance: str) -> str:
    """What is drawn, of which device, and where its joules come from; simulated ones loudly."""
    name = literal(device.model_name) if device else "no single device"
    return f"{what}\n{name} · {provenance.upper() if provenance == 'simulated' else provenance}"


def literal(text: str) -> str:
    """Text from a file, without what matplotlib would take for mathematics or cannot draw."""
    printable = "".join(character if character.isprintable() else "?" for character in text)
    return printable.replace("$", r"\$")


def seen(records: Sequence[CalibrationRecord]) -> str:
    """What the windows' joules are: ``measured`` or ``simulated``."""
    return " or ".join(sorted({record.provenance for record in records}))


def total_j(window: Window) -> float:
    """Joules of a window over packages, DRAM and GPUs."""
    return sum(window.energy_j[domain] for domain in total_domains(window.energy_j))
