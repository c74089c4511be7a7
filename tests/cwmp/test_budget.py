import math

import numpy as np
import pytest
import torch
from fakes.known_costs import known_cost_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from calibration_data import UsageError
from cwmp.budget import PHASES, EnergyLedger
from cwmp.config import RuleName
from cwmp.cost_vector import CostVector, cost_vector
from cwmp.networks import build_network
from cwmp.selection import select
from cwmp.selection.budgeted import RoundBudget, plan_budget, select_again, select_within, upper_bound_j

NETWORK = build_network("mlp")
PRICED = {
    (device, boundary): cost_vector(
        NETWORK,
        known_cost_model(device, relative_u=0.05, correlation=0.3),
        boundary=boundary,
        density=1.0,
        link="wifi-2012" if boundary == "update+uplink" else None,
    )
    for device in ("server-cpu", "edge-board")
    for boundary in ("update", "update+uplink")
}
COSTS = PRICED["server-cpu", "update"]
BUDGETED: tuple[RuleName, ...] = ("cwmp", "cwmp-l1", "cwmp-block", "topk", "randomk")


def update(seed: int, scale: float = 1.0, zero_share: float = 0.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = {}
    for number, (name, parameter) in enumerate(NETWORK.named_parameters()):
        value = torch.randn(parameter.shape, generator=generator) * scale ** (number + 1)
        value[torch.rand(parameter.shape, generator=generator) < zero_share] = 0.0
        drawn[name] = value
    return drawn


def planned(costs: CostVector, fraction: float, confidence: float = 0.95) -> RoundBudget:
    return plan_budget(costs, rule="cwmp", budget_j=None, budget_fraction=fraction, confidence=confidence)


@pytest.mark.parametrize("rule", ["cwmp", "cwmp-l1"])
def test_a_rule_that_sees_one_price_ranks_as_topk(rule: RuleName) -> None:
    """Why ``topk`` may stand for every rule at equal prices."""
    for seed in range(5):
        drawn = update(seed, zero_share=0.1)
        one = dict.fromkeys(drawn, 1e-9)
        ours, theirs = (select(drawn, one, 5e-7, rule=name) for name in (rule, "topk"))
        assert all(torch.equal(ours.masks[name], theirs.masks[name]) for name in drawn)


# the ledger


def test_the_ledger_adds_up() -> None:
    ledger = EnergyLedger()
    for number in (1, 2, 3):
        ledger = ledger.grant(2.0, charged_j=0.5 * number)
        ledger = ledger.charge("pack", predicted_j=0.25, measured_j=0.5)
        ledger = ledger.charge("apply", predicted_j=0.125, measured_j=0.25)
    assert (ledger.granted_j, ledger.charged_j, ledger.remaining_j) == (6.0, 3.0, 3.0)
    assert ledger.total_predicted_j == 3 * 0.375
    assert ledger.seen_j == {"pack": 1.5, "apply": 0.75}


def test_a_missing_joule_is_never_zero() -> None:
    ledger = EnergyLedger()
    for measured_j in (0.5, None, 0.5):
        ledger = ledger.charge("pack", predicted_j=0.25, measured_j=measured_j)
    ledger = ledger.charge("train", predicted_j=None, measured_j=0.25)
    assert ledger.seen_j == {"train": 0.25}
    assert ledger.total_predicted_j is None


def test_more_than_was_granted_cannot_be_charged() -> None:
    with pytest.raises(UsageError, match="cannot be charged"):
        EnergyLedger().grant(1.0, charged_j=1.001)


def test_dense_has_no_budget_to_keep() -> None:
    ledger = EnergyLedger(granted_j=None).grant(None, charged_j=5.0)
    assert ledger.granted_j is ledger.remaining_j is None
    assert ledger.charged_j == 5.0


def test_a_ledger_survives_its_checkpoint() -> None:
    ledger = EnergyLedger().grant(0.3, charged_j=0.1)
    for phase in PHASES:
        ledger = ledger.charge(phase, predicted_j=0.1, measured_j=None if phase == "uplink" else 1 / 3)
    assert EnergyLedger.from_state(ledger.state()) == ledger


# the budget of a round


@given(
    place=st.sampled_from(sorted(PRICED)),
    rule=st.sampled_from(BUDGETED),
    fraction=st.floats(0.002, 1.0),
    confidence=st.sampled_from([0.5, 0.9, 0.999]),
    seed=st.integers(0, 100),
    scale=st.sampled_from([0.2, 1.0, 4.0]),
    zero_share=st.sampled_from([0.0, 0.7, 1.0]),
)
@settings(max_examples=60, deadline=None)
def test_no_rule_ever_exceeds_its_budget(
    place: tuple[str, str],
    rule: RuleName,
    fraction: float,
    confidence: float,
    seed: int,
    scale: float,
    zero_share: float,
) -> None:
    costs = PRICED[place]
    budget = planned(costs, fraction, confidence)
    assert budget.budget_j is not None
    choice = select_within(update(seed, scale, zero_share), budget, rule=rule, seed=seed)
    total = costs.evaluate(choice.selection.masks).total_j
    assert total.value <= upper_bound_j(total, confidence) == choice.upper_j <= budget.budget_j
    assert choice.cost.total_j == total


@pytest.mark.parametrize("rule", BUDGETED)
@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.5])
def test_the_budget_is_used(rule: RuleName, fraction: float) -> None:
    budget = planned(COSTS, fraction)
    assert budget.budget_j is not None
    choice = select_within(update(1), budget, rule=rule, seed=1)
    room_j = budget.budget_j - budget.fixed_upper_j
    assert (choice.upper_j - budget.fixed_upper_j) / room_j > 0.9


def test_prices_are_those_of_the_densities_that_came_out() -> None:
    budget = planned(COSTS, 0.2)
    choice = select_within(update(3, scale=1.5), budget, rule="topk", seed=0)
    assert choice.selections > 1
    assert choice.selection.spent_j == pytest.approx(choice.cost.marginal_j.value, rel=0.1)


def test_dense_keeps_everything_whatever_it_costs() -> None:
    budget = planned(COSTS, 0.01)
    choice = select_within(update(1, zero_share=0.5), budget, rule="dense", seed=0)
    assert choice.selection.kept == COSTS.coordinates
    assert budget.budget_j is not None
    assert choice.upper_j > budget.budget_j
    alone = plan_budget(COSTS, rule="dense", budget_j=1e-9, budget_fraction=None, confidence=0.95)
    assert alone.budget_j is None


def test_a_fraction_of_one_affords_everything_and_is_between_fixed_and_dense() -> None:
    budgets = [planned(COSTS, fraction).budget_j or 0.0 for fraction in (0.01, 0.5, 1.0)]
    assert budgets == sorted(budgets)
    everything = COSTS.evaluate({name: torch.ones_like(p) > 0 for name, p in NETWORK.named_parameters()})
    assert budgets[-1] == pytest.approx(upper_bound_j(everything.total_j, 0.95), rel=1e-12)
    choice = select_within(update(1), planned(COSTS, 1.0), rule="topk", seed=0)
    assert choice.selection.kept == COSTS.coordinates


def test_a_budget_below_the_fixed_joules_is_refused_with_the_smallest_useful_one() -> None:
    def plan(budget_j: float) -> RoundBudget:
        return plan_budget(COSTS, rule="topk", budget_j=budget_j, budget_fraction=None, confidence=0.95)

    fixed_j = upper_bound_j(COSTS.evaluate({}).total_j, 0.95)
    with pytest.raises(UsageError, match="does not cover the fixed") as caught:
        plan(fixed_j)
    assert f"{fixed_j:.4g} J" in caught.value.message
    smallest_j = float(caught.value.next_step.split("is ")[1].split(" J")[0])
    one = {"2.bias": torch.arange(10) == 3}
    assert smallest_j == pytest.approx(upper_bound_j(COSTS.evaluate(one).total_j, 0.95), rel=1e-3)
    assert plan(smallest_j * 1.001).allowance_j > 0


def test_randomk_keeps_its_order_through_all_adjustments() -> None:
    budget = planned(COSTS, 0.3)
    first, again, other = (
        select_within(update(5), budget, rule="randomk", seed=seed).selection.masks for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_at_the_same_joules_cwmp_retains_most() -> None:
    budget = planned(PRICED["edge-board", "update"], 0.1)
    wanted = update(7, scale=0.5)
    for rule in BUDGETED:
        choice = select_within(wanted, budget, rule=rule, seed=0)
        best = select(wanted, choice.prices_j, choice.priced_j, rule="cwmp")
        largest_j = max(choice.prices_j.values())
        slack = float(best.threshold or 0.0) * largest_j
        assert best.retained_squared_norm >= choice.selection.retained_squared_norm - slack


def test_blocks_retain_more_for_the_same_joules_where_lines_are_alike() -> None:
    costs = PRICED["edge-board", "update"]
    budget = planned(costs, 0.02)
    line = max(cost.block.line_coordinates for cost in costs.tensors.values())
    wanted = {}
    for name, value in update(11).items():
        scale = torch.exp(torch.randn(-(-value.numel() // line), generator=torch.manual_seed(1)))
        wanted[name] = value * scale.repeat_interleave(line)[: value.numel()].reshape(value.shape)
    block, topk = (select_within(wanted, budget, rule=rule, seed=0) for rule in ("cwmp-block", "topk"))
    assert block.selection.retained_squared_norm > 1.05 * topk.selection.retained_squared_norm
    assert block.selection.spent_j == pytest.approx(block.cost.marginal_j.value, rel=0.1)


@pytest.mark.parametrize("rule", ["cwmp", "cwmp-l1", "cwmp-block", "topk"])
def test_at_equal_prices_every_rule_is_topk_and_joules_stay_real(rule: RuleName) -> None:
    costs = PRICED["edge-board", "update"]
    assert costs.var_ln_c > 0
    budget = planned(costs, 0.1)
    topk = select_within(update(4, scale=0.5), budget, rule="topk", seed=0)
    equal = select_within(update(4, scale=0.5), budget, rule=rule, seed=0, equal_prices=True)
    assert all(torch.equal(equal.selection.masks[name], mask) for name, mask in topk.selection.masks.items())
    assert equal.cost.total_j == topk.cost.total_j
    assert equal.selection.spent_j == topk.selection.spent_j


def test_threshold_keeps_what_is_large_enough_as_far_as_the_budget_goes() -> None:
    def kept(fraction: float, at_least: float) -> Tensor:
        budget = plan_budget(
            COSTS,
            rule="threshold",
            budget_j=None,
            budget_fraction=fraction,
            confidence=0.95,
            at_least=at_least,
        )
        choice = select_within(update(6), budget, rule="threshold", seed=0)
        assert choice.upper_j <= (budget.budget_j or 0.0)
        return torch.cat([mask.reshape(-1) for mask in choice.selection.masks.values()])

    magnitude = torch.cat([value.abs().reshape(-1) for value in update(6).values()])
    assert torch.equal(kept(1.0, 1.5), magnitude >= 1.5)
    scarce = kept(0.02, 0.5)
    assert magnitude[scarce].min() >= magnitude[~scarce].max() >= 0.5


@pytest.mark.parametrize("rule", [*BUDGETED, "dense"])
def test_selecting_again_is_the_same_selection(rule: RuleName) -> None:
    choice = select_within(update(5), planned(COSTS, 0.2), rule=rule, seed=3)
    again = select_again(update(5), choice, seed=3)
    assert all(torch.equal(again.masks[name], mask) for name, mask in choice.selection.masks.items())


def test_true_joules_stay_within_the_budget_as_often_as_promised() -> None:
    """Worlds drawn from the cost model's own uncertainty; the promise is one-sided, so q of them obey."""
    confidence = 0.9
    budget = planned(COSTS, 0.3, confidence)
    assert budget.budget_j is not None
    choice = select_within(update(2), budget, rule="cwmp", seed=0)
    work = COSTS.fixed_work
    for phases in choice.cost.work.values():
        work = work + phases["pack"] + phases["apply"]
    model, names, worlds = COSTS.pricing.model, sorted(work), 4000
    drawn = np.random.default_rng(4).multivariate_normal(
        model.values(names), model.covariance(names), size=worlds
    )
    true_j = drawn @ np.array([work[name] for name in names])
    assert np.mean(true_j <= choice.upper_j) == pytest.approx(confidence, abs=4 * math.sqrt(0.09 / worlds))
