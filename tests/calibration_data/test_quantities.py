from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration_data import (
    TERMS,
    CounterSpec,
    MeasurementError,
    MemoryHierarchy,
    WindowFlag,
    WindowReading,
    Work,
    domain_kind,
    total_domains,
)
from calibration_data.terms import POWER_TERMS

OPERATIONS = [name for name in TERMS if name not in POWER_TERMS]
works = st.dictionaries(st.sampled_from(list(TERMS)), st.floats(0, 1e15)).map(Work)
fast = settings(deadline=None)


@fast
@given(works, works)
def test_works_add_term_by_term(one: Work, other: Work) -> None:
    both = one + other
    assert all(both[name] == one[name] + other[name] for name in TERMS)
    assert both == other + one


@fast
@given(works, st.floats(0, 1e3))
def test_works_scale(work: Work, factor: float) -> None:
    assert all((work * factor)[name] == work[name] * factor for name in TERMS)
    assert factor * work == work * factor


@fast
@given(works)
def test_absent_amounts_are_zero_and_zero_amounts_are_absent(work: Work) -> None:
    assert all(work[name] > 0 for name in work)
    assert all(work[name] == 0 for name in TERMS if name not in work.amounts)
    assert len(work) == len(work.amounts)
    assert Work(dict(work)) == work


@fast
@given(works)
def test_work_lists_its_terms_in_the_order_of_the_model(work: Work) -> None:
    order = list(TERMS)
    positions = [order.index(name) for name in work]
    assert positions == sorted(positions)


@pytest.mark.parametrize("amount", [-1.0, math.nan, math.inf])
def test_impossible_amounts_are_refused(amount: float) -> None:
    with pytest.raises(ValueError, match="finite and not negative"):
        Work({"launch": amount})


def test_unknown_terms_are_refused() -> None:
    with pytest.raises(ValueError, match="not a term"):
        Work({"flop_fp99": 1.0})
    with pytest.raises(KeyError):
        Work()["flop_fp99"]


@fast
@given(works, st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1e6))
def test_times_of_a_window_replace_those_of_the_work(
    work: Work, t: float, active: float, busy: float
) -> None:
    full = work.over(duration_s=t, active_s=active, busy_core_s=busy)
    assert (full["idle_w"], full["dram_idle_w"], full["awake_w"], full["core_w"]) == (t, t, active, busy)
    assert all(full[name] == work[name] for name in OPERATIONS)
    assert full.without_times() == work.without_times()
    assert not set(work.without_times()) & set(POWER_TERMS)


@pytest.mark.parametrize(
    ("domain", "kind"),
    [("package-0", "package"), ("package-0-die-1", "package"), ("dram-12", "dram"), ("psys", "psys")],
)
def test_kind_of_a_domain(domain: str, kind: str) -> None:
    assert domain_kind(domain) == kind


def test_the_total_counts_every_joule_once() -> None:
    domains = ("psys", "package-0", "package-1", "core-0", "uncore-0", "dram-0", "gpu-0")
    assert total_domains(domains) == ("package-0", "package-1", "dram-0", "gpu-0")
    reading = WindowReading(duration_s=1.0, energy_j=dict.fromkeys(domains, 1.0))
    assert reading.total_j == 4.0


@pytest.mark.parametrize("duration_s", [0.0, -1.0, math.nan, math.inf])
def test_a_window_has_a_positive_duration(duration_s: float) -> None:
    with pytest.raises(ValueError, match="positive duration"):
        WindowReading(duration_s=duration_s, energy_j={})


MEMORY = MemoryHierarchy(l1_bytes=32_768, l2_bytes=1 << 20, llc_bytes=1 << 24, line_bytes=64, cores=4)


def test_levels_lead_from_the_core_to_dram() -> None:
    assert MEMORY.levels == ("l1", "l2", "llc", "dram")
    assert MEMORY.last_cache_bytes == 1 << 24
    two = replace(MEMORY, llc_bytes=None)
    assert two.levels == ("l1", "l2", "dram")
    assert two.last_cache_bytes == 1 << 20


@pytest.mark.parametrize(
    "wrong", [{"l1_bytes": 0}, {"l2_bytes": 1024}, {"llc_bytes": 1024}, {"line_bytes": 0}, {"cores": 0}]
)
def test_an_impossible_hierarchy_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must"):
        replace(MEMORY, **wrong)


def test_a_counter_says_what_it_does_not_know() -> None:
    spec = CounterSpec(domain="package-0", interface="powercap", source="energy_uj")
    assert (spec.kind, spec.range_uj, spec.update_period_s) == ("counter", None, None)


@pytest.mark.parametrize("flags", [("stuck",), ("short", "unmoved")])
def test_a_counter_that_says_nothing_leaves_no_total(flags: tuple[WindowFlag, ...]) -> None:
    reading = WindowReading(duration_s=0.1, energy_j={"package-0": 4.0, "gpu-0": 0.0}, flags={"gpu-0": flags})
    with pytest.raises(MeasurementError, match="no total: gpu-0"):
        _ = reading.total_j


def test_a_counter_that_had_time_to_tick_may_read_zero() -> None:
    reading = WindowReading(
        duration_s=1.0, energy_j={"package-0": 4.0, "dram-0": 0.0}, flags={"dram-0": ("unmoved",)}
    )
    assert reading.total_j == 4.0
