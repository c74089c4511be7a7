"""Numbers as people of the field write them: an SI prefix, and as many digits as the uncertainty allows."""

from __future__ import annotations

import math

_PREFIXES = {-18: "a", -15: "f", -12: "p", -9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T"}


def quantity(value: float, unit: str, digits: int = 3) -> str:
    """A number with a prefixed unit: ``quantity(1.6e-10, "J/B")`` → ``"160 pJ/B"``."""
    power = _power(value, digits)
    scaled = value / 10.0**power
    return f"{scaled:.{_decimals(scaled, digits)}f} {_PREFIXES[power]}{unit}"


def quantity_with_uncertainty(value: float, expanded: float, unit: str) -> str:
    """``value ± U`` with one prefix: U to two significant digits, the value to the same place (GUM 7.2.6)."""
    power = _power(max(value, expanded), 3)
    scaled, scaled_u = value / 10.0**power, expanded / 10.0**power
    decimals = _decimals(scaled_u, 2) if scaled_u else _decimals(scaled, 3)
    return f"{scaled:.{decimals}f} ± {scaled_u:.{decimals}f} {_PREFIXES[power]}{unit}"


def interval(low: float, high: float, unit: str) -> str:
    """Two limits with one prefix: ``"158 … 163 pJ/B"``, with digits enough to tell them apart."""
    power = _power(high, 3)
    scaled_low, scaled_high = low / 10.0**power, high / 10.0**power
    width = scaled_high - scaled_low
    decimals = max(_decimals(scaled_high, 3), _decimals(width, 2) if width else 0)
    return f"{scaled_low:.{decimals}f} … {scaled_high:.{decimals}f} {_PREFIXES[power]}{unit}"


def prefix_for(largest: float) -> tuple[float, str]:
    """Factor and SI prefix for an axis whose largest value is this: values / factor are drawn."""
    power = _power(largest, 3)
    return 10.0**power, _PREFIXES[power]


def _power(value: float, digits: int) -> int:
    """The exponent, a multiple of three, with which the rounded value lies in [1, 1000)."""
    if value == 0:
        return 0
    rounded = float(f"{abs(value):.{digits - 1}e}")
    power = 3 * math.floor(math.log10(rounded) / 3 + 1e-12)
    return min(max(power, min(_PREFIXES)), max(_PREFIXES))


def _decimals(value: float, digits: int) -> int:
    """Digits after the point that give so many significant ones, at most twelve."""
    if value == 0:
        return 0
    rounded = float(f"{abs(value):.{digits - 1}e}")
    return min(max(0, digits - 1 - math.floor(math.log10(rounded) + 1e-12)), 12)
