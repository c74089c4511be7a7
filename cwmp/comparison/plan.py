"""What a comparison consists of: contenders × budgets × seeds × variants, each of them one run.

    DIR/runs/<variant>--<contender>-b<budget>-s<seed>/    ``dense`` knows no budget: <variant>--dense-s<seed>

A contender is a rule, or a rule that sees equal prices (``cwmp:equal-prices``, the ablation). A variant is
what all contenders train under: settings, and a cost model. Only contenders of one variant are compared.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from types import MappingProxyType
from typing import Any, Literal, get_args

from calibration_data import UsageError
from cost_models import CostModel
from cwmp.config import RuleName, TrainingConfig, training_config

EQUAL_PRICES = ":equal-prices"
VARIANT_ENDS = "--"
"""In the name of a run, between its variant and the rest."""

RULE_NAMES: tuple[RuleName, ...] = tuple(rule for rule in get_args(RuleName) if rule != "threshold")
"""Without the rule that keeps a magnitude, whatever the budget: at matched joules it cannot take part."""

PRICED_RULES: tuple[RuleName, ...] = ("cwmp", "cwmp-l1", "cwmp-block")

AXES = ("selector", "equal_prices", "budget_j", "budget_fraction", "seed")
"""Settings that contenders, budgets and seeds replace."""

BudgetUnit = Literal["J", "fraction"]
EngineName = Literal["local", "local-batched"]


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A rule as it takes part.

    Attributes:
        rule: how coordinates are chosen.
        equal_prices: the rule sees one price for all; joules are booked as they are.
    """

    rule: RuleName
    equal_prices: bool = False

    @property
    def sees_prices(self) -> bool:
        """Whether what coordinates cost decides which are kept."""
        return self.rule in PRICED_RULES and not self.equal_prices

    @property
    def name(self) -> str:
        """As the user writes it."""
        return self.rule + EQUAL_PRICES if self.equal_prices else self.rule

    @property
    def label(self) -> str:
        """As tables and figures show it."""
        return f"{self.rule} (equal prices)" if self.equal_prices else self.rule


CWMP = Contender(rule="cwmp")
TOPK = Contender(rule="topk")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What all contenders train under.

    Attributes:
        cost_model: prices of everything.
        name: as tables and figures show it; may be empty where there is only one.
        settings: that replace those which all variants share.
    """

    cost_model: CostModel
    name: str = ""
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One run of a comparison.

    Attributes:
        name: of its folder.
        variant: name of what it trains under.
        contender: how coordinates are chosen.
        budget: as given; None for ``dense``.
        config: its settings.
        cost_model: its prices.
    """

    name: str
    variant: str
    contender: Contender
    budget: float | None
    config: TrainingConfig
    cost_model: CostModel


def contender(name: str) -> Contender:
    """The contender of a name such as ``cwmp`` or ``cwmp:equal-prices``.

    Raises:
        UsageError: there is no such rule.
    """
    rule = name.removesuffix(EQUAL_PRICES)
    for known in RULE_NAMES:
        if known == rule:
            return Contender(rule=known, equal_prices=name != rule)
    raise UsageError(
        f"There is no rule {name!r} to compare.",
        next_step=f"Rules are {', '.join(RULE_NAMES)}; one that sees equal prices: cwmp{EQUAL_PRICES}.",
    )


def planned_runs(
    config: TrainingConfig,
    variants: Sequence[Variant],
    *,
    contenders: Sequence[Contender],
    budgets: Sequence[float],
    budget_unit: BudgetUnit,
    seeds: Sequence[int],
) -> list[PlannedRun]:
    """Every run of a comparison, in the order in which they are made: all of one seed before the next.

    Raises:
        UsageError: there is nothing to compare, something is named twice, or a setting is not valid.
    """
    names = [variant.name for variant in variants]
    contender_names = [item.name for item in contenders]
    for what, given in (
        ("rules", contender_names),
        ("budgets", budgets),
        ("seeds", seeds),
        ("variants", names),
    ):
        if len(set(given)) != len(given):
            raise UsageError(f"The {what} of a comparison name something twice: {list(given)}.")
    if not contenders or not seeds or (not budgets and {item.rule for item in contenders} != {"dense"}):
        raise UsageError("A comparison needs at least one rule, one budget and one seed.")
    plans = [
        _planned(config, variant, item, budget, budget_unit, seed)
        for seed, variant, budget, item in product(seeds, variants, [None, *budgets], contenders)
        if (item.rule == "dense") == (budget is None)
    ]
    if len({plan.name for plan in plans}) != len(plans):
        raise UsageError(
            "Two runs of the comparison have the same folder: budgets agree in their first six digits, or"
            " variants in the letters and digits of their names."
        )
    return plans


def _planned(
    config: TrainingConfig,
    variant: Variant,
    item: Contender,
    budget: float | None,
    budget_unit: BudgetUnit,
    seed: int,
) -> PlannedRun:
    if taken := sorted(set(AXES) & set(variant.settings)):
        raise UsageError(
            f"A variant cannot set {', '.join(taken)}: rules, budgets and seeds do.",
            next_step="Name them in the lists of the comparison.",
        )
    changes: dict[str, Any] = {
        **variant.settings,
        "selector": item.rule,
        "equal_prices": item.equal_prices,
        "seed": seed,
        "budget_j": budget if budget_unit == "J" else None,
        "budget_fraction": budget if budget_unit == "fraction" else None,
    }
    middle = "" if budget is None else f"-b{budget:g}"
    return PlannedRun(
        name=f"{_folder_prefix(variant.name)}{item.name.replace(':', '-')}{middle}-s{seed}",
        variant=variant.name,
        contender=item,
        budget=budget,
        config=training_config(**{**config.model_dump(), **changes}),
        cost_model=variant.cost_model,
    )


def _folder_prefix(variant: str) -> str:
    return re.sub(r"[^a-z0-9.+]+", "-", variant.lower()).strip("-.") + VARIANT_ENDS if variant else ""
