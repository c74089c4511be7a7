"""Windows of clients on one host, cut out of one counter that is known at every moment."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cwmp.flower.windows import HostWindow, overlapping, united

RANGE_UJ = 10_000


def reading(time_ns: int) -> int:
    """A counter of uneven power that wraps: 3 µJ/ns before 500, then 1 µJ/ns."""
    return 3 * min(time_ns, 500) + max(time_ns - 500, 0)


def window(start: int, end: int, *, host: str = "a", domain: str = "package-0") -> HostWindow:
    return HostWindow(
        host=host,
        domain=domain,
        start_ns=start,
        end_ns=end,
        start_uj=reading(start) % RANGE_UJ,
        end_uj=reading(end) % RANGE_UJ,
        range_uj=RANGE_UJ,
    )


spans = st.lists(
    st.tuples(st.integers(0, 20_000), st.integers(0, 3_000)).map(lambda span: (span[0], span[0] + span[1])),
    min_size=1,
    max_size=12,
)


@given(spans)
def test_the_union_is_what_the_counter_moved_while_anyone_worked(chosen: list[tuple[int, int]]) -> None:
    """Brute force: count every nanosecond once."""
    covered = {moment for start, end in chosen for moment in range(start, end)}
    truth_uj = sum(reading(moment + 1) - reading(moment) for moment in covered)
    (host,) = united(window(*span) for span in chosen)
    assert host.energy_j == pytest.approx(truth_uj * 1e-6, rel=1e-12, abs=1e-18)
    assert host.seconds == pytest.approx(len(covered) * 1e-9, rel=1e-12, abs=1e-18)
    assert host.windows == len(chosen)


@given(spans, st.randoms())
def test_the_order_of_arrival_does_not_matter(chosen: list[tuple[int, int]], shuffler: object) -> None:
    mixed = list(chosen)
    shuffler.shuffle(mixed)  # type: ignore[attr-defined]
    assert united(window(*span) for span in mixed) == united(window(*span) for span in chosen)


@given(spans)
def test_overlapping_means_a_shared_moment(chosen: list[tuple[int, int]]) -> None:
    found = overlapping([window(*span) for span in chosen])
    for index, (start, end) in enumerate(chosen):
        others = chosen[:index] + chosen[index + 1 :]
        brute = any(max(start, first) < min(end, last) for first, last in others)
        assert found[index] == (start < end and brute)


def test_hosts_and_domains_stay_apart() -> None:
    windows = [
        window(0, 10),
        window(0, 10, host="b"),
        window(0, 10, domain="dram-0"),
        window(5, 20, host="b"),
    ]
    assert [(host.host, host.domain, host.windows) for host in united(windows)] == [
        ("a", "dram-0", 1),
        ("a", "package-0", 1),
        ("b", "package-0", 2),
    ]
    assert overlapping(windows) == [False, True, False, True]


@pytest.mark.parametrize(
    "broken",
    [
        {"end_ns": 1},
        {"start_uj": RANGE_UJ + 1},
        {"range_uj": None, "end_uj": 0},
        {"host": ""},
        {"energy_j": 5.0},
    ],
)
def test_a_window_that_cannot_be_is_refused(broken: dict[str, object]) -> None:
    fields = window(10, 20).model_dump()
    with pytest.raises(ValueError, match="validation error"):
        HostWindow.model_validate({**fields, **broken})
