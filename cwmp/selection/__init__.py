"""Choosing the gradient coordinates that an energy budget is spent on."""

from cwmp.selection.blocks import select_blocks
from cwmp.selection.confident import ConfidentSelection, predicted_j, select_with_confidence
from cwmp.selection.result import Certificate, DeviceMask, Selection, TensorMask
from cwmp.selection.rules import RULES, SCORED_RULES, Rule, ScoredRule
from cwmp.selection.selector import NonFinite, absolute_norms, retained_at, select

__all__ = [
    "RULES",
    "SCORED_RULES",
    "Certificate",
    "ConfidentSelection",
    "DeviceMask",
    "NonFinite",
    "Rule",
    "ScoredRule",
    "Selection",
    "TensorMask",
    "absolute_norms",
    "predicted_j",
    "retained_at",
    "select",
    "select_blocks",
    "select_with_confidence",
]
