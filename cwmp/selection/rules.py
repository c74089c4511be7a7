"""Rules as a score and a cost: what coordinates are ranked by, largest first, and what each is charged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from cwmp.config import RuleName

Rule = RuleName
"""How coordinates are ranked.

``cwmp``        g²/c: optimal for the squared norm that is kept.
``cwmp-l1``     |g|/c: optimal for the absolute sum that is kept, the score of arXiv 2603.22465.
``cwmp-block``  lines of neighbours by what they are worth together, where opening a line costs.
``topk``        |g|: the largest gradients, whatever they cost.
``randomk``     a random order.
``threshold``   |g|, down to a magnitude that the caller names.
``dense``       everything, whatever the budget.
"""

ScoredRule = Literal["cwmp", "cwmp-l1", "topk", "randomk", "threshold"]
RULES: tuple[Rule, ...] = get_args(Rule)
SCORED_RULES: tuple[ScoredRule, ...] = get_args(ScoredRule)
"""The rules of ``select`` that rank single coordinates."""

SQUARE_PER_JOULE, MAGNITUDE_PER_JOULE, MAGNITUDE, RANDOM = range(4)

SCORES: Mapping[ScoredRule, int] = {
    "cwmp": SQUARE_PER_JOULE,
    "cwmp-l1": MAGNITUDE_PER_JOULE,
    "topk": MAGNITUDE,
    "randomk": RANDOM,
    "threshold": MAGNITUDE,
}
"""Which score the kernels compute."""
