"""Sentences that stand in every report: what a provenance means, the limits, the glossary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

MEANING: Mapping[str, str] = MappingProxyType(
    {
        "measured": "These joules were read from energy counters of the device named here.",
        "inferred": "These joules were told apart by the fit from a counter that covers more.",
        "simulated": "These joules come from a simulated device, whose costs somebody wrote into a file. "
        "No energy counter was read, and they say nothing about any real device.",
        "literature": "These joules were published by others. No energy counter was read for them.",
    }
)
"""What the loud word at the head of the page means."""

_LOUDEST_FIRST = ("simulated", "literature", "inferred", "measured")


def in_words(provenances: Iterable[str]) -> str:
    """One provenance as it is, several joined, the one to be warned of first."""
    return " and ".join(sorted(set(provenances), key=_LOUDEST_FIRST.index))


LIMITS = (
    "Intervals describe repeatability, the tick of the counter and the fit. The gain of a board's own "
    "sensor, several percent and the same in every reading, is not in them; ratios between costs do not "
    "depend on it.",
    "A cost model is valid for one device at one setting of clocks and power cap, within the working sets "
    "and thread counts of its campaign.",
    "Prices are of what follows backprop. The gradient is there already, and computing it is not priced.",
    "A tensor is taken to live in the smallest cache that holds it with its gradient and optimiser state.",
    "A link costs what the device spends on it; networks and base stations are not counted.",
    "Accuracies of single rounds swing by some points: compare means, and several seeds.",
)

WORDS = (
    ("measured", "read from an energy counter of the device."),
    ("inferred", "told apart by the fit from a counter that covers more, such as DRAM inside a package."),
    ("simulated", "from a simulated device with known costs; nothing was read from hardware."),
    ("literature", "published by others, or supplied by the user."),
    ("U (k = 2)", "expanded uncertainty: twice the standard uncertainty."),
    (
        "identified, bounded, refused",
        "a cost with a value and an interval; one of which only limits are known; one that the windows "
        "cannot tell, named with the reason and without a number.",
    ),
    ("measurement window", "two readings of a counter around some work."),
    ("family", "microbenchmarks that share a kernel; left out together to see what the model is worth."),
    ("MAPE", "mean absolute relative error of windows."),
    ("coverage", "share of windows inside their 95 % prediction interval."),
    ("VIF", "variance inflation factor: how much a variance grows because other terms look alike."),
    (
        "boundary",
        "what is inside the joules: update (memory and compute on the device after backprop) or "
        "update+uplink (sending as well).",
    ),
    (
        "squared norm kept",
        "share of Σ g² of an update that was sent; also called its retained energy, which is no joules.",
    ),
    ("Var(ln c)", "variance of the logarithm of the prices c: how much there is to gain from them."),
    ("cwmp, cwmp-l1, topk", "rules that keep the largest g²/c, |g|/c and |g| within a budget."),
    ("randomk, dense", "rules that keep a random choice within the budget, and everything without one."),
)
