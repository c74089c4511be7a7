"""The seconds that works take, by the roofline of a cost model, as numbers of many works at once."""

from __future__ import annotations

import math

import numpy as np

from calibration_data import TERMS
from calibration_data.terms import POWER_TERMS
from cost_models import CostModel
from cwmp.work_table import WorkTable


class Roofline:
    """Adds the seconds that all cores are awake and busy with each of some works.

    Args:
        model: with the best rates that were seen.
        cores: of the device.
    """

    def __init__(self, model: CostModel, cores: int) -> None:
        rates = model.document.throughput
        operations = [name not in POWER_TERMS for name in TERMS]
        seen = [name in rates for name in TERMS]
        in_a_second = {"awake_w": 1.0, "core_w": float(cores)}
        self._model = model
        self._rates = np.array([rates.get(name, math.inf) for name in TERMS])
        self._rates[np.logical_not(operations)] = math.inf
        self._unseen = np.flatnonzero(np.logical_and(operations, np.logical_not(seen)))
        self._in_a_second = np.array([in_a_second.get(name, 0.0) for name in TERMS])

    def timed(self, table: WorkTable) -> WorkTable:
        """The same works with their seconds.

        Raises:
            MissingCoefficientError: an operation was never seen at any rate.
        """
        amounts = table.amounts
        if self._unseen.size and amounts[:, self._unseen].any():
            for work in table:
                self._model.duration_s(work)  # says which
        durations_s = (amounts / self._rates).max(axis=1, keepdims=True)
        return WorkTable(amounts + durations_s * self._in_a_second)
