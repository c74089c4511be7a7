from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from fakes.synthetic_records import MEMORY
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from calibration_data import TERMS, UsageError, Work
from calibration_data.records import DeviceFingerprint
from cost_models import Coefficient, CostModel, CostModelDocument, MissingCoefficientError
from cost_models.document import Covariance

NAMES = ("idle_w", "flop_fp32", "byte_l1")
VALUES = (20.0, 16e-12, 5e-12)
U = (0.2, 1e-12, 0.5e-12)
CORRELATION = np.array([[1.0, 0.3, -0.2], [0.3, 1.0, -0.8], [-0.2, -0.8, 1.0]])
MATRIX = CORRELATION * np.outer(U, U)


def identified(name: str, value: float, u: float, freedom: float | None = None) -> Coefficient:
    return Coefficient(
        name=name,
        unit=TERMS[name].unit,
        value=value,
        standard_uncertainty=u,
        degrees_of_freedom=freedom,
        ci95=(max(0.0, value - 2 * u), value + 2 * u),
        status="identified",
        provenance="measured",
    )


def without_value(name: str, ci95: tuple[float, float] | None, reason: str) -> Coefficient:
    return Coefficient(
        name=name,
        unit=TERMS[name].unit,
        ci95=ci95,
        status="refused" if ci95 is None else "bounded",
        provenance="measured",
        reason=reason,
    )


def document(**changes: Any) -> CostModelDocument:
    fields: dict[str, Any] = {
        "provenance": "measured",
        "device": DeviceFingerprint(device="cpu", kind="cpu", model_name="A CPU", memory=MEMORY),
        "created": "2026-01-01T00:00:00+00:00",
        "domains": ("package-0",),
        "time_attribution": "active",
        "throughput": {"flop_fp32": 1e11, "byte_l1": 4e11},
        "coefficients": (
            *(identified(*row) for row in zip(NAMES, VALUES, U, (10.0, 20.0, 40.0), strict=True)),
            without_value("launch", (1e-6, 3e-6), "only limits"),
            without_value("byte_dram_read", None, "cannot be told apart from awake_w"),
        ),
        "covariance": Covariance(names=NAMES, matrix=tuple(map(tuple, MATRIX.tolist()))),
    }
    return CostModelDocument(**(fields | changes))


@pytest.fixture
def model() -> CostModel:
    return CostModel(document())


amounts = st.fixed_dictionaries(
    {
        "idle_w": st.floats(0, 1e3),
        "flop_fp32": st.floats(0, 1e14),
        "byte_l1": st.floats(0, 1e14),
        "launch": st.floats(0, 1e8),
    }
)


@settings(deadline=None)
@given(amounts)
def test_a_prediction_is_the_sum_with_full_covariance(work: dict[str, float]) -> None:
    estimate = CostModel(document()).predict_j(Work(work))
    vector = np.array([work[name] for name in NAMES])
    expected_j = vector @ VALUES + work["launch"] * 2e-6
    variance = vector @ MATRIX @ vector + (work["launch"] * 2e-6) ** 2 / 12
    assert estimate.value == pytest.approx(expected_j)
    assert estimate.standard_uncertainty**2 == pytest.approx(variance, rel=1e-6, abs=1e-20)
    assert estimate.degrees_of_freedom >= 10 * (1 - 1e-9)


def test_the_uncertainty_is_that_of_drawn_costs(model: CostModel) -> None:
    work = Work({"flop_fp32": 3e12, "byte_l1": 8e12, "launch": 2e7})
    rng = np.random.default_rng(0)
    costs = rng.multivariate_normal(VALUES, MATRIX, size=40_000)
    launch = rng.uniform(1e-6, 3e-6, size=40_000)
    drawn_j = costs @ [0.0, 3e12, 8e12] + 2e7 * launch
    estimate = model.predict_j(work)
    assert estimate.value == pytest.approx(np.mean(drawn_j), rel=0.01)
    assert estimate.standard_uncertainty == pytest.approx(np.std(drawn_j), rel=0.02)


def test_correlated_errors_partly_cancel(model: CostModel) -> None:
    both = model.predict_j(Work({"flop_fp32": 1e12, "byte_l1": 1e12})).standard_uncertainty
    assert both < math.hypot(U[1] * 1e12, U[2] * 1e12)


def test_no_work_costs_nothing_and_takes_no_time(model: CostModel) -> None:
    estimate = model.predict_j(Work())
    assert (estimate.value, estimate.standard_uncertainty) == (0.0, 0.0)
    assert model.duration_s(Work()) == 0.0
    assert model.duration_s(Work({"idle_w": 5.0})) == 0.0


def test_a_missing_cost_is_named_with_its_reason_and_a_next_step(model: CostModel) -> None:
    work = Work({"byte_dram_read": 1.0, "flop_int8": 1.0, "flop_fp32": 1.0})
    assert model.missing(work) == ("flop_int8", "byte_dram_read")
    with pytest.raises(MissingCoefficientError) as caught:
        model.predict_j(work)
    assert "byte_dram_read (refused: cannot be told apart from awake_w)" in caught.value.message
    assert "flop_int8 (absent)" in caught.value.message
    assert "calijoule profile" in caught.value.next_step
    assert caught.value.exit_code == 2
    for ask in (model.values, model.covariance):
        with pytest.raises(MissingCoefficientError):
            ask(["byte_dram_read"])


def test_work_without_the_missing_operation_can_be_predicted(model: CostModel) -> None:
    assert model.missing(Work({"byte_dram_read": 0.0, "flop_fp32": 1.0})) == ()
    assert model.predict_j(Work({"flop_fp32": 1e12})).value == pytest.approx(16.0)


def test_idle_dram_counts_only_where_dram_has_a_domain(model: CostModel) -> None:
    work = Work({"flop_fp32": 1e12}).over(duration_s=2.0, active_s=0.0, busy_core_s=0.0)
    assert model.predict_j(work).value == pytest.approx(16.0 + 40.0)
    with_dram = CostModel(document(domains=("package-0", "dram-0")))
    assert with_dram.missing(work) == ("dram_idle_w",)


def test_duration_is_that_of_the_slowest_operation(model: CostModel) -> None:
    assert model.duration_s(Work({"flop_fp32": 2e11, "byte_l1": 4e11})) == pytest.approx(2.0)
    with pytest.raises(MissingCoefficientError, match="no throughput for launch"):
        model.duration_s(Work({"launch": 1.0}))


def test_bounded_costs_count_with_the_middle_of_their_interval(model: CostModel) -> None:
    names = ["launch", "byte_l1"]
    np.testing.assert_allclose(model.values(names), [2e-6, 5e-12])
    expected = np.diag([(2e-6) ** 2 / 12, U[2] ** 2])
    np.testing.assert_allclose(model.covariance(names), expected)


def test_covariance_follows_the_order_that_is_asked_for(model: CostModel) -> None:
    np.testing.assert_allclose(model.covariance(NAMES[::-1]), MATRIX[::-1, ::-1])


def test_assumed_costs_are_exact_and_marked_as_such(model: CostModel) -> None:
    assumed = model.with_assumed({"byte_dram_read": 150e-12, "flop_fp32": 20e-12})
    item = assumed.coefficients["byte_dram_read"]
    assert (item.value, item.provenance, item.reason) == (150e-12, "literature", "supplied by the user")
    np.testing.assert_allclose(assumed.values(["byte_dram_read", "flop_fp32"]), [150e-12, 20e-12])
    np.testing.assert_allclose(assumed.covariance(["flop_fp32", "byte_l1"]), [[0, 0], [0, U[2] ** 2]])
    estimate = assumed.predict_j(Work({"byte_dram_read": 1e12}))
    assert (estimate.value, estimate.standard_uncertainty) == (pytest.approx(150.0), 0.0)
    assert model.coefficients["byte_dram_read"].status == "refused"
    # What was made in memory must be as valid as what is read.
    CostModelDocument.model_validate_json(assumed.document.model_dump_json(by_alias=True), strict=True)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("flop_fp99", 1e-12, "no term|not a term"),
        ("launch", -1.0, "between 0"),
        ("launch", math.nan, "between 0"),
        ("launch", math.inf, "between 0"),
    ],
)
def test_impossible_assumptions_are_refused(model: CostModel, name: str, value: float, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        model.with_assumed({name: value})


BAD = [
    ({"coefficients": (identified("idle_w", 1.0, 0.1),) * 2}, "given twice"),
    ({"coefficients": (identified("idle_w", 1.0, 0.1),)}, "covariance: its names"),
    ({"device": None}, "device: a measured model"),
    ({"provenance": "simulated"}, "provenance: idle_w is measured"),
    ({"provenance": "literature"}, "provenance: idle_w is measured"),
    ({"throughput": {"flop_fp99": 1.0}}, "throughput: 'flop_fp99'"),
    ({"throughput": {"flop_fp32": 0.0}}, "greater than"),
    (
        {"device": DeviceFingerprint(device="sim:x", kind="simulated", model_name="x", memory=MEMORY)},
        "simulated device cannot",
    ),
    (
        {"covariance": Covariance(names=NAMES, matrix=tuple(map(tuple, (4 * MATRIX).tolist())))},
        "not the square of its uncertainty",
    ),
]


@pytest.mark.parametrize(("changes", "words"), BAD)
def test_a_document_that_contradicts_itself_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        document(**changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"unit": "J"}, "is in W, not in 'J'"),
        ({"name": "idle"}, "is not a term"),
        ({"value": -1.0}, "greater than or equal to 0"),
        ({"value": 1e12}, "less than or equal to"),
        ({"value": 9.0}, "does not contain its value"),
        ({"ci95": (2.0, 1.0)}, "ends before it begins"),
        ({"value": None}, "does not fit the numbers"),
        ({"status": "refused", "reason": "why"}, "does not fit the numbers"),
        ({"status": "bounded", "reason": "why"}, "does not fit the numbers"),
        ({"status": "bounded", "value": None, "standard_uncertainty": None}, "without a reason"),
        ({"standard_uncertainty": math.nan}, "finite"),
        ({"degrees_of_freedom": 0.0}, "greater than"),
        ({"comment": "x"}, "Extra inputs"),
    ],
)
def test_an_impossible_coefficient_is_refused(changes: dict[str, Any], words: str) -> None:
    good = {
        "name": "idle_w",
        "unit": "W",
        "value": 1.5,
        "standard_uncertainty": 0.1,
        "ci95": (1.3, 1.7),
        "status": "identified",
        "provenance": "measured",
    }
    Coefficient(**good)
    with pytest.raises(ValidationError, match=words):
        Coefficient(**(good | changes))


@pytest.mark.parametrize(
    ("names", "matrix", "words"),
    [
        (("idle_w", "idle_w"), ((1.0, 0.0), (0.0, 1.0)), "given twice"),
        (("idle_w",), ((1.0, 0.0),), "1 rows of 1"),
        (("idle_w", "launch"), ((1.0, 0.5), (0.0, 1.0)), "not symmetric"),
        (("idle_w", "launch"), ((1.0, 2.0), (2.0, 1.0)), "larger than one"),
        (("idle_w",), ((-1.0,),), "no covariance"),
        (
            ("idle_w", "launch", "awake_w"),
            ((1.0, 0.9, 0.9), (0.9, 1.0, -0.9), (0.9, -0.9, 1.0)),
            "positive semi-definite",
        ),
    ],
)
def test_a_matrix_that_is_no_covariance_is_refused(names: Any, matrix: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Covariance(names=names, matrix=matrix)


def test_tiny_joules_per_operation_do_not_upset_the_covariance_checks() -> None:
    tiny = np.array([[1e-30, 0.5e-30], [0.5e-30, 1e-30]])
    Covariance(names=("byte_l1", "byte_l2"), matrix=tuple(map(tuple, tiny.tolist())))
    with pytest.raises(ValidationError, match="larger than one"):
        Covariance(names=("byte_l1", "byte_l2"), matrix=((1e-30, 2e-30), (2e-30, 1e-30)))
