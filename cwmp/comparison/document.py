"""The file ``comparison.json``: what a comparison of rules found.

History:
    1  rules and budgets over seeds, one cost model
    2  variants, rules with equal prices, 95 % intervals, paired tests, courses by round, joules to reach an
       accuracy, densities, failed runs
    3  every rule that sees prices is tested against every rival; what prices brought by round
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import ConfigDict, Field

from calibration_data import InvalidFileError, Provenance
from calibration_data.files import Frozen, parse_model, read_bounded
from cost_models.migrations import migrate
from cwmp.comparison.course import Course, Reached
from cwmp.comparison.migrations import STEPS
from cwmp.comparison.plan import BudgetUnit, Contender
from cwmp.comparison.seed_statistics import Difference, SeedMean
from cwmp.config import RuleName

COMPARISON_SCHEMA: Final = "calijoule/comparison"
COMPARISON_SCHEMA_VERSION: Final = 3

MAX_COMPARISON_BYTES = 200_000_000


class Entry(Frozen):
    """One contender at one budget of one variant, over all seeds that finished.

    Attributes:
        variant: what it trained under.
        rule: how coordinates were chosen.
        equal_prices: the rule saw one price for all.
        budget: as given; None for ``dense``.
        budget_j: joules of one client and round, mean over seeds; None for ``dense``.
        seeds: that finished.
        runs: folders of its runs, by seed.
        tail_accuracies: mean accuracy of the last rounds, by seed.
        accuracy: their mean.
        boundary_j: predicted joules inside the boundary over the whole run, mean over seeds.
        spent_fraction: of what was granted, how much was spent; None for ``dense``.
        predicted_j: joules of select, pack and apply.
        measured_j: the same, measured or simulated; None if a sensor missed some.
        measured_provenance: ``measured`` or ``simulated``.
        retained_fraction: kept share of the squared norm of the updates.
        topk_retained_fraction: what ``topk`` keeps of the same updates for the same joules.
        cwmp_retained_fraction: what ``cwmp`` keeps of them.
        var_ln_c: variance of the logarithm of the prices: how much there is to gain from them.
        predicted_gain: of the squared norm, ``cwmp`` over ``topk``, expected from one update before training.
        pareto: no other entry of the variant is at least as accurate for fewer joules.
        course: accuracy, joules and kept share by round; None in files of version 1.
        density: kept share of the coordinates by tensor.
        reached: joules to each target of the variant.
    """

    variant: str
    rule: RuleName
    equal_prices: bool
    budget: float | None
    budget_j: float | None
    seeds: tuple[int, ...]
    runs: tuple[str, ...]
    tail_accuracies: tuple[float, ...]
    accuracy: SeedMean
    boundary_j: float
    spent_fraction: float | None
    predicted_j: float
    measured_j: float | None
    measured_provenance: Literal["measured", "simulated"] | None
    retained_fraction: float
    topk_retained_fraction: float
    cwmp_retained_fraction: float
    var_ln_c: float
    predicted_gain: float
    pareto: bool
    course: Course | None
    density: dict[str, SeedMean]
    reached: tuple[Reached, ...]

    @property
    def contender(self) -> Contender:
        """The rule as it took part."""
        return Contender(rule=self.rule, equal_prices=self.equal_prices)

    @property
    def label(self) -> str:
        """The rule as tables and figures show it."""
        return self.contender.label

    def coincides_with(self, other: Entry) -> bool:
        """Whether both had the same accuracies, joules and kept shares to the bit."""
        return (self.seeds, self.tail_accuracies, self.boundary_j, self.course) == (
            other.seeds,
            other.tail_accuracies,
            other.boundary_j,
            other.course,
        )


class PairedTest(Frozen):
    """A rule that sees prices against a rival at the same joules.

    Attributes:
        variant: what both trained under.
        budget: of both, as given.
        rule: label of the one.
        rival: label of the other.
        difference: accuracy of the rule above that of the rival, over the seeds that both finished; Holm's
            correction is for all tests of the variant.
    """

    variant: str
    budget: float
    rule: str
    rival: str
    difference: Difference


class VariantReport(Frozen):
    """What contenders trained under.

    Attributes:
        name: may be empty where there is only one.
        settings: that are its own.
        cost_model_device: device of the prices.
        price_provenance: where predicted joules come from.
    """

    name: str
    settings: dict[str, Any]
    cost_model_device: str
    price_provenance: Provenance


class FailedRun(Frozen):
    """A run that is in no entry."""

    run: str
    reason: str


class ComparisonReport(Frozen):
    """What a comparison found.

    Attributes:
        budget_unit: ``J``, or ``fraction`` of the joules that can be saved.
        seeds: that were asked for.
        variants: what contenders trained under, in the order in which they were given.
        entries: by variant, budget and contender.
        tests: every rule that sees prices against every rival at every budget.
        failures: runs that did not finish.
        verdict: who won, who lost and where it is a tie.
    """

    schema_name: Literal["calijoule/comparison"] = Field(default=COMPARISON_SCHEMA, alias="schema")
    schema_version: Literal[3] = COMPARISON_SCHEMA_VERSION
    budget_unit: BudgetUnit
    seeds: tuple[int, ...]
    variants: tuple[VariantReport, ...]
    entries: tuple[Entry, ...]
    tests: tuple[PairedTest, ...]
    failures: tuple[FailedRun, ...]
    verdict: tuple[str, ...]

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_by_name=True, validate_by_alias=True
    )

    def entries_of(self, variant: str) -> list[Entry]:
        """The entries of one variant."""
        return [entry for entry in self.entries if entry.variant == variant]

    def verdict_on(self, variant: str) -> list[str]:
        """Sentences on a named variant without its name, or for the empty name those on no named one."""
        named = [other.name for other in self.variants if other.name]
        found = []
        for sentence in self.verdict:
            about = next((name for name in named if sentence.startswith(f"{name}: ")), "")
            if about == variant:
                found.append(sentence.removeprefix(f"{about}: "))
        return found


def load_comparison(path: Path) -> ComparisonReport:
    """The comparison of a file of any version.

    Raises:
        InvalidFileError: it cannot be read, is no JSON, of another schema or version, or breaks the schema.
    """
    text = read_bounded(path, MAX_COMPARISON_BYTES)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidFileError(path, "it is no JSON") from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if isinstance(version, int) and version in STEPS:
        try:
            text = json.dumps(migrate(data, version, COMPARISON_SCHEMA_VERSION, STEPS)).encode()
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidFileError(path, f"it is no comparison of version {version}") from error
    return parse_model(path, text, ComparisonReport)
