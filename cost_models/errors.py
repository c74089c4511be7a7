"""Errors of this package; all are the caller's to solve.

UsageError                      (calibration_data.errors, exit code 2)
├── MissingCoefficientError     the work needs a cost that the model does not know
└── RecordsDisagreeError        the records cannot go into one model
"""

from __future__ import annotations

from calibration_data import UsageError


class MissingCoefficientError(UsageError):
    """The work needs a coefficient that was refused or never measured."""


class RecordsDisagreeError(UsageError):
    """The records are of different devices, provenances or domains, or one of them is given twice."""
