from __future__ import annotations

import dataclasses

import pytest

from calibration_data import TERMS, Term
from calibration_data.terms import CACHE_LEVELS, DRAM_TERMS, DTYPES, POWER_TERMS


def test_every_term_is_listed_under_its_own_name() -> None:
    assert all(term.name == name for name, term in TERMS.items())


def test_there_is_one_term_for_each_dtype_and_level() -> None:
    expected = {
        *POWER_TERMS,
        *(f"flop_{dtype}" for dtype in DTYPES),
        *(f"byte_{level}" for level in CACHE_LEVELS),
        "byte_dram_read",
        "byte_dram_write",
        "line_random_dram",
        "launch",
    }
    assert set(TERMS) == expected


def test_a_cost_is_joules_or_watts_for_one_unit_of_its_amount() -> None:
    for name, term in TERMS.items():
        if name in POWER_TERMS:
            assert term.unit == "W"
            assert term.amount_unit.endswith("s")
        else:
            assert term.unit == f"J/{term.amount_unit}"
        assert term.meaning


def test_dram_terms_are_terms() -> None:
    assert set(DRAM_TERMS) <= set(TERMS)


def test_terms_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        TERMS["new"] = Term(name="new", unit="J", amount_unit="1", meaning="x")  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        TERMS["launch"].unit = "J"  # type: ignore[misc]
