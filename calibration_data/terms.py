"""The terms of the energy model: one name, one unit, one meaning each.

    E = idle_w·T + dram_idle_w·T + awake_w·T_active + core_w·(busy core seconds)
        + Σ flop_<dtype>·n_flop + Σ byte_<level>·n_bytes + line_random_dram·n_lines + launch·n_launch

Bytes are charged by increment: a byte that comes from DRAM also pays every cache level that it passes,
so the cost of a path is the sum of its levels and grows with distance.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

DTYPES = ("fp64", "fp32", "tf32", "bf16", "fp16", "int8")
CACHE_LEVELS = ("l1", "l2", "llc")


@dataclass(frozen=True, kw_only=True)
class Term:
    """One coefficient of the model: joules (or watts) per unit of one counted amount."""

    name: str
    unit: str
    amount_unit: str
    meaning: str


def _terms() -> dict[str, Term]:
    watts = {
        "idle_w": ("s", "power of the idle device, package without DRAM where DRAM has its own domain"),
        "dram_idle_w": ("s", "power of the idle DRAM, where it has its own domain"),
        "awake_w": ("s", "added power while any core is awake (clocks up, caches and fabric powered)"),
        "core_w": ("core s", "added power of each busy core"),
    }
    terms = {
        name: Term(name=name, unit="W", amount_unit=unit, meaning=meaning)
        for name, (unit, meaning) in watts.items()
    }
    for dtype in DTYPES:
        name = f"flop_{dtype}"
        terms[name] = Term(
            name=name,
            unit="J/FLOP",
            amount_unit="FLOP",
            meaning=f"one {dtype} operation; a fused multiply-add is two",
        )
    for level in CACHE_LEVELS:
        name = f"byte_{level}"
        terms[name] = Term(
            name=name,
            unit="J/B",
            amount_unit="B",
            meaning=f"increment for one byte that passes the {level} cache",
        )
    terms["byte_dram_read"] = Term(
        name="byte_dram_read", unit="J/B", amount_unit="B", meaning="increment for one byte read from DRAM"
    )
    terms["byte_dram_write"] = Term(
        name="byte_dram_write", unit="J/B", amount_unit="B", meaning="increment for one byte written to DRAM"
    )
    terms["line_random_dram"] = Term(
        name="line_random_dram",
        unit="J/line",
        amount_unit="line",
        meaning="added cost of one cache line at a random DRAM address, beyond its bytes (row activation)",
    )
    terms["launch"] = Term(
        name="launch", unit="J/launch", amount_unit="launch", meaning="one empty call of a compiled kernel"
    )
    return terms


TERMS: MappingProxyType[str, Term] = MappingProxyType(_terms())
"""Every term by name, in the order in which tables print them."""

POWER_TERMS = ("idle_w", "dram_idle_w", "awake_w", "core_w")
"""Terms whose amount is a time, known only once a window has closed."""

DRAM_TERMS = ("dram_idle_w", "byte_dram_read", "byte_dram_write", "line_random_dram")
"""Terms that a DRAM domain books, where the device has one."""
