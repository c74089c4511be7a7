"""Joules of a whole step of a network: what torch dispatches, counted and priced by a cost model."""

from cwmp.prediction.energy import EnergyCounterMode, NotCovered, Prediction, Share, predict
from cwmp.prediction.work_counter import CountedWork, WorkCounter

__all__ = [
    "CountedWork",
    "EnergyCounterMode",
    "NotCovered",
    "Prediction",
    "Share",
    "WorkCounter",
    "predict",
]
