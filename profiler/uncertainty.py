"""Coverage factors of reported intervals."""

from __future__ import annotations

from math import inf

from calibration_data import NORMAL_COVERAGE_FACTOR

_FEW = {1: 12.706, 2: 4.303}
"""GUM table G.2."""


def coverage_factor(degrees_of_freedom: float) -> float:
    """The factor k of a 95 % interval from Student's t distribution.

    Cornish and Fisher's expansion in the reciprocal degrees of freedom (Abramowitz and Stegun 26.7.5), good
    to 0.2 % from three on; fewer are from a table.

    Raises:
        ValueError: below one there is no interval.
    """
    if degrees_of_freedom < 1:
        raise ValueError(f"{degrees_of_freedom} degrees of freedom give no interval")
    if degrees_of_freedom < 3:
        return _FEW[int(degrees_of_freedom)]
    if degrees_of_freedom == inf:
        return NORMAL_COVERAGE_FACTOR
    z = NORMAL_COVERAGE_FACTOR
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / degrees_of_freedom**power for power, term in enumerate(terms, start=1))
