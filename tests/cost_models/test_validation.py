from __future__ import annotations

from dataclasses import replace

import pytest
from fakes.known_costs import known_cost_model
from fakes.synthetic_records import MEMORY, POINTS, campaign

from calibration_data import TERMS
from calibration_data.records import DeviceFingerprint
from cost_models import Coefficient, CostModel, fit_cost_model
from cost_models.document import Diagnostics
from cost_models.plausibility import PUBLISHED, implausibility, published_range
from cost_models.validation import Finding, findings

CPU = DeviceFingerprint(device="cpu", kind="cpu", model_name="A CPU", memory=MEMORY)


def messages(model: CostModel, level: str) -> list[str]:
    return [finding.message for finding in findings(model) if finding.level == level]


def with_diagnostics(model: CostModel, diagnostics: Diagnostics) -> CostModel:
    return CostModel(model.document.model_copy(update={"diagnostics": diagnostics}))


def coefficient(name: str, low: float, high: float) -> Coefficient:
    middle = (low + high) / 2
    return Coefficient(
        name=name,
        unit=TERMS[name].unit,
        value=middle,
        standard_uncertainty=(high - low) / 4,
        ci95=(low, high),
        status="identified",
        provenance="measured",
    )


def test_published_ranges_are_of_terms_and_have_sources() -> None:
    for kind in PUBLISHED.values():
        for name, published in kind.items():
            assert name in TERMS
            assert 0 < published.low < published.high
            assert published.source


@pytest.mark.parametrize(
    ("low", "high", "flagged"),
    [(20e-12, 22e-12, False), (1e-12, 6e-12, False), (1e-12, 4e-12, True), (81e-12, 90e-12, True)],
)
def test_only_an_interval_that_lies_wholly_outside_is_flagged(low: float, high: float, flagged: bool) -> None:
    problem = implausibility(CPU, coefficient("flop_fp32", low, high))
    assert bool(problem) == flagged
    if flagged:
        assert problem.startswith("outside the published range 5.0 … 80.0 pJ/FLOP (")


def test_a_gpu_has_ranges_of_its_own() -> None:
    gpu = DeviceFingerprint(
        device="cuda:0", kind="cuda", model_name="A GPU", memory=replace(MEMORY, line_bytes=32)
    )
    simulated = gpu.model_copy(update={"kind": "simulated"})
    on_gpu, on_cpu = published_range(gpu, "byte_l1"), published_range(CPU, "byte_l1")
    assert on_gpu is not None
    assert on_gpu != on_cpu
    assert published_range(simulated, "byte_l1") == on_gpu
    # A100: 13.11 pJ/bit is 105 pJ/B (Antepara et al., SC'25).
    dram = published_range(gpu, "byte_dram_read")
    assert dram is not None
    assert dram.low < 8 * 13.11e-12 < dram.high


def test_nothing_is_published_for_some_terms_and_for_no_device() -> None:
    assert published_range(CPU, "awake_w") is None
    assert published_range(None, "flop_fp32") is None
    assert implausibility(CPU, coefficient("awake_w", 1.0, 2.0)) == ""


def test_simulated_is_the_first_thing_said() -> None:
    first = findings(known_cost_model())[0]
    assert first == Finding(
        level="note", message="SIMULATED: every joule in this model comes from a simulated device"
    )


def test_a_good_fit_has_no_warning() -> None:
    assert messages(fit_cost_model(campaign(noise=0.003), records_sha256=[]), "warning") == []


def test_refused_bounded_and_supplied_costs_are_named() -> None:
    refused = known_cost_model(refused=frozenset({"launch", "byte_l2"}))
    assert "refused, no number is given: byte_l2 and launch" in messages(refused, "note")
    supplied = refused.with_assumed({"launch": 1e-6})
    assert "not measured but supplied: launch" in messages(supplied, "note")
    bounded = fit_cost_model(
        campaign({"idle_w": 20.0, "dram_idle_w": 3.0, "awake_w": 5.0}), records_sha256=[]
    )
    assert any(
        "only limits are known: " in message and "byte_l1" in message for message in messages(bounded, "note")
    )


def test_an_implausible_cost_is_a_warning() -> None:
    model = known_cost_model(overrides={"flop_fp32": 500e-12}, relative_u=0.01)
    (warning,) = messages(model, "warning")
    assert warning.startswith("flop_fp32 is outside the published range")


def test_an_ill_conditioned_design_is_a_warning() -> None:
    model = fit_cost_model(campaign(points=POINTS[6:9]), records_sha256=[])
    assert any(m.startswith("the scaled condition number is infinite") for m in messages(model, "warning"))


@pytest.mark.parametrize(
    ("diagnostics", "words"),
    [
        ({"mape_leave_one_family_out": 0.2}, "predicted to 20.0%"),
        ({}, "no family can be predicted"),
        (
            {"mape_leave_one_family_out": 0.05, "coverage95_leave_one_family_out": 0.5},
            "only 50% of left-out windows",
        ),
        ({"mape_leave_one_family_out": 0.05, "scaled_condition_number": 45.0}, "condition number is 45"),
    ],
)
def test_a_poor_fit_is_a_warning(diagnostics: dict[str, float], words: str) -> None:
    fields = {"n_records": 30, "scaled_condition_number": 5.0} | diagnostics
    model = with_diagnostics(known_cost_model(), Diagnostics.model_validate(fields))
    (warning,) = messages(model, "warning")
    assert words in warning


def test_operations_without_a_rate_are_named() -> None:
    model = known_cost_model()
    slow = CostModel(model.document.model_copy(update={"throughput": {}}))
    assert any(message.startswith("no throughput") for message in messages(slow, "note"))


def changed(model: CostModel, name: str | None = None, **changes: object) -> CostModel:
    """The model with another value of a field of its document, or of one coefficient."""
    if name is None:
        return CostModel(model.document.model_copy(update=changes))
    coefficients = tuple(
        item.model_copy(update=changes) if item.name == name else item for item in model.document.coefficients
    )
    return CostModel(model.document.model_copy(update={"coefficients": coefficients}))


def test_a_byte_costs_more_the_farther_it_comes() -> None:
    """server-cpu: 4, 9, 30 and 160 pJ/B by increment."""
    (path,) = [m for m in messages(known_cost_model(), "note") if m.startswith("a byte costs")]
    assert path.endswith("l1 4.00 pJ/B, l2 13.0 pJ/B, llc 43.0 pJ/B, dram 203 pJ/B")


def test_a_path_ends_where_a_level_is_refused() -> None:
    model = known_cost_model(refused=frozenset({"byte_llc"}))
    (path,) = [m for m in messages(model, "note") if m.startswith("a byte costs")]
    assert path.endswith("l1 4.00 pJ/B, l2 13.0 pJ/B")
    without = known_cost_model(refused=frozenset({"byte_l1"}))
    assert not any(m.startswith("a byte costs") for m in messages(without, "note"))


ODD_LAUNCH = "the 95 % interval of launch does not fit its standard uncertainty"
MEASURED_DRAM = changed(known_cost_model(), "byte_dram_read", provenance="measured")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (changed(known_cost_model(relative_u=0.1), "launch", ci95=(1.19e-6, 1.21e-6)), ODD_LAUNCH),
        (changed(known_cost_model(relative_u=0.001), "launch", ci95=(0.5e-6, 2e-6)), ODD_LAUNCH),
        (changed(known_cost_model(), throughput={"byte_l1": 1e16}), "byte_l1 at the rate in its file would"),
        (known_cost_model(refused=frozenset({"awake_w"})), "as 'active', and the model has no awake_w"),
        (changed(known_cost_model(), time_attribution="idle"), "as 'idle', and the model has an awake_w"),
        (changed(known_cost_model(), domains=("package-0", "psys")), "psys: no domain that belongs"),
        (
            changed(MEASURED_DRAM, domains=("package-0",)),
            "without a domain of the DRAM's own: byte_dram_read",
        ),
        (changed(known_cost_model(), provenance="literature"), "from the literature, and no source is named"),
    ],
)
def test_what_contradicts_itself_is_a_warning(model: CostModel, words: str) -> None:
    (warning,) = messages(model, "warning")
    assert words in warning
