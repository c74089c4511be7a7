"""Records to a linear system: one row for each window and response, one column for each cost.

Where DRAM has its own domain there are two responses, one below the other:

    package rows   package − what DRAM costs the package (its controller)   columns package:<term>
    DRAM rows      the DRAM domain                                          columns dram:<term>

and the cost of a DRAM term is the sum of its two shares. Without that domain there is one response and
DRAM terms are seen, and inferred, from the package or board. Core, uncore and psys are never added: they
are inside the package, or contain it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibration_data import MeasurementError, Work, domain_kind, total_domains
from calibration_data.records import CalibrationRecord, Window
from calibration_data.terms import DRAM_TERMS, TERMS
from cost_models.errors import RecordsDisagreeError

Side = Literal["package", "dram"]

DEFAULT_REPEATABILITY = 0.01
"""Relative scatter of replicates that is assumed where no configuration was repeated: the median over 26
GPU kernels in AccelWattch's published runs (Kandiah et al., MICRO 2021) is 1.1 %."""

MIN_REPEATABILITY = 0.001
"""No window is trusted to better than this, however well its few replicates happen to agree."""

MIN_ENERGY_J, MAX_ENERGY_J = 1e-9, 1e12
MIN_AMOUNT, MAX_AMOUNT = 1e-12, 1e30
"""Beyond these no real window lies, and squares would leave the range of numbers."""


class Column(NamedTuple):
    """One unknown: the share of a term's cost that one response sees."""

    side: Side
    term: str


class _Row(NamedTuple):
    side: Side
    record: int
    around: bool
    window: Window
    work: Work


@dataclass(frozen=True, kw_only=True)
class DesignMatrix:
    """The linear system of a set of records.

    Attributes:
        columns: one unknown each.
        matrix: amounts, shape (n_rows, n_columns).
        energy_j: measured joules of each row, shape (n_rows,).
        relative_u: relative standard uncertainty of each row, from repeatability, shape (n_rows,).
        quantisation_u_j: standard uncertainty of each row from tick and resolution, shape (n_rows,).
        clusters: configuration of each row, shape (n_rows,); the idle windows of a record are their own.
        strata: rows that share one size of error (side, asleep or awake), shape (n_rows,).
        records: index of the record of each row, shape (n_rows,).
        windows: index of the measurement window of each row, shape (n_rows,); two responses share one.
        started_s: when the window of each row began, in seconds of its campaign, shape (n_rows,).
        around: whether a row is an idle window around a record, shape (n_rows,).
        repeatability: pooled relative standard deviation of replicates, by side.
    """

    columns: tuple[Column, ...]
    matrix: NDArray[np.float64]
    energy_j: NDArray[np.float64]
    relative_u: NDArray[np.float64]
    quantisation_u_j: NDArray[np.float64]
    clusters: NDArray[np.intp]
    strata: NDArray[np.intp]
    records: NDArray[np.intp]
    windows: NDArray[np.intp]
    started_s: NDArray[np.float64]
    around: NDArray[np.bool_]
    repeatability: dict[Side, float]

    def shares(self, term: str) -> NDArray[np.float64]:
        """Which columns add up to a term's cost, shape (n_columns,), ones and zeros."""
        return np.array([float(column.term == term) for column in self.columns])

    @property
    def labels(self) -> list[str]:
        """Columns in words; the side is named where a term has two."""
        terms = [column.term for column in self.columns]
        return [
            f"{column.term} ({column.side})" if terms.count(column.term) > 1 else column.term
            for column in self.columns
        ]

    @property
    def terms(self) -> tuple[str, ...]:
        """Terms that at least one window exercises, in the order of ``TERMS``."""
        present = {column.term for column in self.columns}
        return tuple(name for name in TERMS if name in present)


def sorted_records(records: Sequence[CalibrationRecord]) -> list[CalibrationRecord]:
    """The records in an order of their own, after checking that they belong together.

    Raises:
        RecordsDisagreeError: there are none, or they are of different devices, provenances or domains, or
            one is given twice.
    """
    if not records:
        raise RecordsDisagreeError(
            "There is no record to fit.", next_step="Take some with: calijoule profile."
        )
    first = records[0]
    for record in records:
        for what, agrees in (
            ("device", record.device == first.device),
            ("provenance", record.provenance == first.provenance),
            ("domains", _domains(record) == _domains(first)),
        ):
            if not agrees:
                raise RecordsDisagreeError(
                    f"The records {first.point!r} and {record.point!r} differ in their {what}.",
                    next_step="Fit one model for each device from its own records.",
                )
    if (first.device.kind == "simulated") != (first.provenance == "simulated"):
        raise RecordsDisagreeError(
            f"The records are {first.provenance}, but their device is of kind {first.device.kind!r}."
        )
    ordered = sorted(records, key=_identity)
    for earlier, later in pairwise(ordered):
        if _identity(earlier) == _identity(later):
            raise RecordsDisagreeError(
                f"The record {later.point!r} of {later.created} is given twice.",
                next_step="Give each record file once.",
            )
    return ordered


def build_design_matrix(records: Sequence[CalibrationRecord]) -> DesignMatrix:
    """One row for each replicate and idle window and each response.

    Args:
        records: of one device, as ``sorted_records`` returns them.

    Raises:
        RecordsDisagreeError: no domain of the records is part of a total.
        MeasurementError: a domain stood still during a window, or a number is of no possible size.
    """
    sides = _sides(records[0])
    rows = [row for side in sides for row in _rows(records, side)]
    repeatability = {side: _repeatability(records, side) for side in sides}
    energy_j = np.array([_energy_j(row.window, row.side) for row in rows])
    quantisation_u_j = np.array([_quantisation_u_j(row.window, row.side) for row in rows])
    for row, energy, quantisation in zip(rows, energy_j, quantisation_u_j, strict=True):
        _check_row(records[row.record].point, row, energy, quantisation)
    columns = tuple(_columns(rows))
    return DesignMatrix(
        columns=columns,
        matrix=np.array(
            [[row.work[term] if row.side == side else 0.0 for side, term in columns] for row in rows]
        ),
        energy_j=energy_j,
        relative_u=np.array([repeatability[row.side] for row in rows]),
        quantisation_u_j=quantisation_u_j,
        clusters=np.array([2 * row.record + row.around for row in rows], dtype=np.intp),
        strata=np.array(
            [2 * sides.index(row.side) + (row.window.active_s == 0) for row in rows], dtype=np.intp
        ),
        records=np.array([row.record for row in rows], dtype=np.intp),
        windows=np.arange(len(rows), dtype=np.intp) % (len(rows) // len(sides)),
        started_s=np.array([row.window.started_s for row in rows]),
        around=np.array([row.around for row in rows], dtype=np.bool_),
        repeatability=repeatability,
    )


def _check_row(point: str, row: _Row, energy_j: float, quantisation_u_j: float) -> None:
    problem = ""
    # A coarse DRAM counter may not move in a short idle window; a whole device always uses energy.
    if energy_j <= 0 and not (row.side == "dram" and quantisation_u_j > 0):
        problem = f"the {row.side} counter stood still for {row.window.duration_s} s"
    elif not MIN_ENERGY_J <= max(energy_j, quantisation_u_j) <= MAX_ENERGY_J:
        problem = f"the {row.side} reads {energy_j:.3g} ± {quantisation_u_j:.3g} J, which no window holds"
    elif not all(MIN_AMOUNT <= amount <= MAX_AMOUNT for amount in row.work.values()):
        problem = "its work or its duration is of no possible size"
    if problem:
        raise MeasurementError(
            f"{point}: {problem}.",
            next_step="Measure again; see calijoule devices for what the sensor can do.",
        )


def _rows(records: Sequence[CalibrationRecord], side: Side) -> Iterator[_Row]:
    for index, record in enumerate(records):
        for window in record.replicates:
            yield _Row(side, index, False, window, record.window_work(window))
        for window in (record.idle_before, record.idle_after):
            times = Work().over(duration_s=window.duration_s, active_s=0.0, busy_core_s=0.0)
            yield _Row(side, index, True, window, times)


def _columns(rows: Sequence[_Row]) -> Iterator[Column]:
    own_dram = any(row.side == "dram" for row in rows)
    exercised = {name for row in rows for name in row.work}
    for name in TERMS:
        if name not in exercised:
            continue
        if name != "dram_idle_w":
            yield Column("package", name)
        if own_dram and name in DRAM_TERMS:
            yield Column("dram", name)


def _sides(record: CalibrationRecord) -> tuple[Side, ...]:
    kinds = {domain_kind(domain) for domain in _domains(record)}
    if not kinds - {"dram"}:
        raise RecordsDisagreeError(
            f"The records read {', '.join(sorted(record.replicates[0].energy_j))}: "
            "no package and no GPU, so there is no total to fit.",
            next_step="See what can be measured with: calijoule devices.",
        )
    return ("package", "dram") if "dram" in kinds else ("package",)


def _domains(record: CalibrationRecord) -> tuple[str, ...]:
    return tuple(sorted(total_domains(record.replicates[0].energy_j)))


def _of_side(window: Window, side: Side) -> list[str]:
    return [
        name for name in total_domains(window.energy_j) if (domain_kind(name) == "dram") == (side == "dram")
    ]


def _energy_j(window: Window, side: Side) -> float:
    return sum(window.energy_j[domain] for domain in _of_side(window, side))


def _quantisation_u_j(window: Window, side: Side) -> float:
    return float(np.hypot.reduce([window.quantisation_u_j.get(name, 0.0) for name in _of_side(window, side)]))


def _repeatability(records: Sequence[CalibrationRecord], side: Side) -> float:
    """Pooled relative standard deviation of replicates, without the part that the tick explains."""
    squares, degrees_of_freedom, quantisation = 0.0, 0, []
    for record in records:
        energy_j = np.array([_energy_j(window, side) for window in record.replicates])
        mean_j = float(np.mean(energy_j))
        if len(energy_j) < 2 or mean_j <= 0:
            continue
        squares += float(np.sum((energy_j / mean_j - 1) ** 2))
        degrees_of_freedom += len(energy_j) - 1
        quantisation += [(_quantisation_u_j(window, side) / mean_j) ** 2 for window in record.replicates]
    if not degrees_of_freedom:
        return DEFAULT_REPEATABILITY
    variance = squares / degrees_of_freedom - float(np.mean(quantisation))
    return max(MIN_REPEATABILITY, float(np.sqrt(max(variance, 0.0))))


def _identity(record: CalibrationRecord) -> tuple[str, str, str, float]:
    return record.campaign.digest, record.point, record.created, record.replicates[0].started_s
