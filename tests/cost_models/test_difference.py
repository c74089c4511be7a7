from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from fakes.known_costs import known_cost_model
from fakes.synthetic_records import TRUTH, campaign

from cost_models import CostModel, Estimate, fit_cost_model
from cost_models.difference import (
    CoefficientDifference,
    ModelDifference,
    compare_models,
    differ,
    ratio_interval,
)
from cost_models.document import Covariance


def of(difference: ModelDifference, name: str) -> CoefficientDifference:
    return next(item for item in difference.coefficients if item.name == name)


def words(difference: ModelDifference) -> str:
    return " ".join(difference.verdict)


def test_a_model_does_not_differ_from_itself() -> None:
    model = known_cost_model(relative_u=0.02)
    difference = compare_models(model, model)
    assert {item.outcome for item in difference.coefficients} == {"agree"}
    assert all(item.ratio == 1 and item.intervals_overlap for item in difference.coefficients)
    assert difference.context == ()
    assert difference.verdict[0] == "No cost differs by more than its uncertainties; 13 were compared."


def test_the_one_cost_that_changed_is_named_with_its_ratio() -> None:
    first = fit_cost_model(campaign(noise=0.003))
    second = fit_cost_model(campaign({**TRUTH, "flop_fp32": 20e-12}, noise=0.003, seed=1))
    difference = compare_models(first, second)
    changed = of(difference, "flop_fp32")
    assert changed.outcome == "differ"
    assert changed.intervals_overlap is False
    assert changed.ratio == pytest.approx(20 / 16, rel=0.02)
    assert changed.ratio_ci95 is not None
    assert changed.ratio_ci95[0] < 20 / 16 < changed.ratio_ci95[1]
    assert "flop_fp32 (×1.2" in words(difference)


def test_equal_costs_are_called_different_as_often_as_chance_allows() -> None:
    """False alarms of a 95 % test of normal estimates, one of them known from six degrees of freedom."""
    rng = np.random.default_rng(5)
    alarms = []
    for _ in range(4000):
        first, second = rng.normal(10.0, 0.5), rng.normal(10.0, 1.0)
        u_second = math.sqrt(rng.chisquare(6) / 6)
        alarms.append(
            differ(
                Estimate(value=first, standard_uncertainty=0.5),
                Estimate(value=second, standard_uncertainty=u_second, degrees_of_freedom=6),
            )
        )
    assert 0.035 < np.mean(alarms) < 0.065


def test_overlapping_intervals_do_not_yet_mean_agreement() -> None:
    """Intervals may overlap while the values are over two standard uncertainties of the difference apart."""
    first = known_cost_model(relative_u=0.05, overrides={"launch": 1e-6})
    second = known_cost_model(relative_u=0.05, overrides={"launch": 1.2e-6})
    item = of(compare_models(first, second), "launch")
    assert item.intervals_overlap
    assert item.outcome == "differ"


def test_what_only_one_model_knows_is_said_and_no_ratio_is_given() -> None:
    whole, without = known_cost_model(), known_cost_model(refused=frozenset({"launch"}))
    there, back = compare_models(whole, without), compare_models(without, whole)
    assert of(there, "launch").outcome == "only in first"
    assert of(back, "launch").outcome == "only in second"
    assert of(there, "launch").ratio is None
    assert "Only the first model knows launch." in there.verdict
    assert of(compare_models(without, without), "launch").outcome == "in neither"


@pytest.mark.parametrize(("limits", "outcome"), [((1e-6, 5e-6), "agree"), ((1.5e-6, 5e-6), "differ")])
def test_limits_differ_only_where_intervals_have_nothing_in_common(
    limits: tuple[float, float], outcome: str
) -> None:
    model = known_cost_model(relative_u=0.05)
    document = known_cost_model(relative_u=0.05, refused=frozenset({"launch"})).document
    bounded = tuple(
        c.model_copy(update={"status": "bounded", "ci95": limits}) if c.name == "launch" else c
        for c in document.coefficients
    )
    other = CostModel(document.model_copy(update={"coefficients": bounded}))
    item = of(compare_models(model, other), "launch")
    assert item.outcome == outcome
    assert item.ratio is None


def test_devices_conditions_and_charging_are_compared() -> None:
    first, second = known_cost_model(), known_cost_model("edge-board")
    document = second.document.model_copy(update={"time_attribution": "idle", "software": {"numpy": "1"}})
    difference = compare_models(first, CostModel(document))
    what = {item.what: (item.first, item.second) for item in difference.context}
    assert what["time attribution"] == ("active", "idle")
    assert what["device"] == ("sim:server-cpu", "sim:edge-board")
    assert what["device cores"] == ("16", "4")
    assert what["software numpy"] == ("none", "1")
    assert "charge time differently (active and idle)" in words(difference)
    assert "SIMULATED" in words(difference)


def test_models_of_the_same_records_are_not_independent() -> None:
    model = fit_cost_model(campaign(), records_sha256=["a" * 64])
    assert "They share records" in words(compare_models(model, model))


def test_the_ratio_of_supplied_numbers_is_exact_and_that_of_zero_is_none() -> None:
    exact = Estimate(value=2.0, standard_uncertainty=0.0)
    assert ratio_interval(exact, replace(exact, value=3.0)) == (1.5, 1.5)
    assert ratio_interval(replace(exact, value=0.0), exact) is None
    assert differ(exact, replace(exact, value=2.1))
    assert not differ(exact, exact)


def test_the_comparison_is_plain_json() -> None:
    difference = compare_models(known_cost_model(), known_cost_model(refused=frozenset({"launch"})))
    found = json.loads(json.dumps(difference.as_json(), allow_nan=False))
    assert found["schema"] == "calijoule/cost-model-difference"
    assert [item["name"] for item in found["coefficients"]] == [c.name for c in difference.coefficients]
    assert found["coefficients"][-1]["second"]["status"] == "refused"


def test_models_without_a_common_cost() -> None:
    document = known_cost_model(refused=frozenset(TRUTH)).document
    empty = CostModel(document.model_copy(update={"covariance": Covariance(names=(), matrix=())}))
    assert compare_models(empty, known_cost_model()).verdict[0] == "No cost is known to both models."
