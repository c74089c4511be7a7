"""The difference of two readings is what the counter moved, whatever the counter did in between."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration_data import MeasurementError
from profiler.errors import CounterResetError
from profiler.wraparound import counter_difference

RANGES = st.integers(min_value=1, max_value=2**64)


@given(data=st.data(), counter_range=RANGES)
def test_less_than_one_range_is_exact(data: st.DataObject, counter_range: int) -> None:
    before = data.draw(st.integers(0, counter_range - 1))
    moved = data.draw(st.integers(0, counter_range - 1))
    assert counter_difference(before, (before + moved) % counter_range, counter_range) == moved


@given(data=st.data(), counter_range=RANGES, start=st.integers(0, 2**64))
def test_differences_of_a_long_walk_add_up(data: st.DataObject, counter_range: int, start: int) -> None:
    steps = data.draw(st.lists(st.integers(0, counter_range - 1), max_size=30))
    counter = start % counter_range
    total = 0
    for step in steps:
        moved_to = (counter + step) % counter_range
        total += counter_difference(counter, moved_to, counter_range)
        counter = moved_to
    assert total == sum(steps)


@pytest.mark.parametrize("counter_range", [1, 2, 3, 7, 12])
def test_against_a_counter_that_is_stepped_by_one(counter_range: int) -> None:
    for before in range(counter_range):
        counter = before
        for moved in range(counter_range):
            assert counter_difference(before, counter, counter_range) == moved
            counter = 0 if counter + 1 == counter_range else counter + 1


@given(before=st.integers(0, 2**70), moved=st.integers(0, 2**70))
def test_without_a_range_a_counter_only_rises(before: int, moved: int) -> None:
    assert counter_difference(before, before + moved, None) == moved


@given(before=st.integers(1, 2**70), data=st.data())
def test_without_a_range_a_fall_is_an_error(before: int, data: st.DataObject) -> None:
    after = data.draw(st.integers(0, before - 1))
    with pytest.raises(CounterResetError):
        counter_difference(before, after, None)


@pytest.mark.parametrize(("before", "after"), [(0, 101), (101, 0), (-1, 5), (5, -1)])
def test_a_reading_outside_the_range_cannot_be_trusted(before: int, after: int) -> None:
    with pytest.raises(MeasurementError, match="outside its range"):
        counter_difference(before, after, 100)
