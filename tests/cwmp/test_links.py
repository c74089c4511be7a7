"""The link table against the figures of its sources and the joules that they imply."""

from __future__ import annotations

import pytest

from calibration_data import UsageError
from cwmp.links import LINKS, named_link


def test_every_link_is_possible_and_named() -> None:
    assert set(LINKS) == {
        "lte-2012",
        "3g-2012",
        "wifi-2012",
        "4g-2021",
        "5g-lowband-2021",
        "5g-mmwave-2021",
        "ethernet-10g",
        "nvlink-c2c",
    }
    for name, link in LINKS.items():
        assert link.name == name
        assert link.up_nj_per_bit > 0
        assert link.down_nj_per_bit is None or link.down_nj_per_bit > 0
        assert link.wake_j is None or link.wake_j >= 0
        assert link.kappa >= 1
        assert link.source


@pytest.mark.parametrize(
    ("name", "pair_uj"),
    [
        ("lte-2012", 28),
        ("wifi-2012", 18),
        ("4g-2021", 5.1),
        ("5g-lowband-2021", 1.9),
        ("5g-mmwave-2021", 0.6),
        ("ethernet-10g", 0.032),
        ("nvlink-c2c", 0.08e-3),
    ],
)
def test_joules_of_a_pair_of_64_bits(name: str, pair_uj: float) -> None:
    link = named_link(name)
    assert link.uplink_j(8) / link.kappa * 1e6 == pytest.approx(pair_uj, rel=0.05)


def test_one_percent_of_resnet18_over_lte_costs_less_than_waking_the_radio() -> None:
    link = named_link("lte-2012")
    marginal_j = link.uplink_j(112_000 * 8)
    assert marginal_j / link.kappa == pytest.approx(3.1, abs=0.05)
    assert link.wake_j is not None
    assert marginal_j < link.wake_j


def test_an_unknown_link_is_told_the_known_ones() -> None:
    with pytest.raises(UsageError, match="Links: lte-2012, 3g-2012"):
        named_link("carrier-pigeon")
