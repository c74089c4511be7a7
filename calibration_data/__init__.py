"""The nouns that everyone shares, the record format, and the measured data of real devices.

Imports nothing of ours and stays light: the record model (pydantic) lives in
``calibration_data.records`` and is imported only where files are read or written.
"""

from calibration_data.errors import (
    CalijouleError,
    InvalidFileError,
    MeasurementError,
    NoUsableSensorError,
    UsageError,
)
from calibration_data.quantities import (
    FLAG_MEANING,
    NORMAL_COVERAGE_FACTOR,
    CounterSpec,
    MemoryHierarchy,
    Provenance,
    WindowFlag,
    WindowReading,
    Work,
    domain_kind,
    says_nothing,
    total_domains,
)
from calibration_data.terms import TERMS, Term

__version__ = "0.1.0"

__all__ = [
    "FLAG_MEANING",
    "NORMAL_COVERAGE_FACTOR",
    "TERMS",
    "CalijouleError",
    "CounterSpec",
    "InvalidFileError",
    "MeasurementError",
    "MemoryHierarchy",
    "NoUsableSensorError",
    "Provenance",
    "Term",
    "UsageError",
    "WindowFlag",
    "WindowReading",
    "Work",
    "__version__",
    "domain_kind",
    "says_nothing",
    "total_domains",
]
