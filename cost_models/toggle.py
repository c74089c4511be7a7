"""Bands around costs: how much less the same work draws on zeros.

What toggles fewer bits draws less: matrix products on an A100 up to 67 % less by their values alone (arXiv
2212.08805). Costs hold for random data; zeros are the other end.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import hypot

import numpy as np

from calibration_data import total_domains
from calibration_data.families import TOGGLE_FAMILY, ZEROS_SUFFIX
from calibration_data.records import CalibrationRecord, Window
from cost_models.document import ToggleBand
from cost_models.uncertainty import student_t


def toggle_bands(records: Sequence[CalibrationRecord]) -> dict[str, ToggleBand]:
    """Work on zeros over the same work on random data, by the configuration's name.

    Configurations that only one of both has are left out, and those that do not draw more than the idle
    device.

    Args:
        records: of one device, families that no fit uses included.
    """
    random = {(record.campaign.digest, record.point): record for record in records}
    bands = {}
    for record in records:
        if record.family != TOGGLE_FAMILY:
            continue
        point = record.point.removesuffix(ZEROS_SUFFIX)
        partner = random.get((record.campaign.digest, point))
        if partner is not None and (band := _band(record, partner)) is not None:
            bands[point] = band
    return bands


def _band(zeros: CalibrationRecord, random: CalibrationRecord) -> ToggleBand | None:
    low, low_u = _loop_j(zeros)
    high, high_u = _loop_j(random)
    if low <= 0 or high <= 0:
        return None
    ratio = low / high
    freedom = min(len(zeros.replicates), len(random.replicates)) - 1
    if freedom < 1:
        return None
    half = student_t(0.975, freedom) * ratio * hypot(low_u / low, high_u / high)
    return ToggleBand(zeros_rel=ratio, ci95=(max(0.0, ratio - half), ratio + half))


def _loop_j(record: CalibrationRecord) -> tuple[float, float]:
    """Joules of a loop without those of the idle device, and their standard uncertainty from scatter."""
    idle_w = [_joules(window) / window.duration_s for window in (record.idle_before, record.idle_after)]
    added_j = [_joules(window) - float(np.mean(idle_w)) * window.duration_s for window in record.replicates]
    scatter = float(np.std(added_j, ddof=1) / np.sqrt(len(added_j))) if len(added_j) > 1 else 0.0
    idle_u = abs(idle_w[0] - idle_w[1]) / 2 * float(np.mean([w.duration_s for w in record.replicates]))
    return float(np.mean(added_j)) / record.loops, hypot(scatter, idle_u) / record.loops


def _joules(window: Window) -> float:
    return sum(window.energy_j[domain] for domain in total_domains(window.energy_j))
