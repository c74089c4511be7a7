"""One file of every format and version ever released still loads, and still says what it said."""

from __future__ import annotations

from pathlib import Path

from calibration_data.store import read_records
from cost_models import fit_cost_model, load_cost_model
from cost_models.document import COST_MODEL_SCHEMA_VERSION
from cwmp.comparison.document import COMPARISON_SCHEMA_VERSION, load_comparison
from cwmp.cost_document import load_costs
from profiler.simulated_spec import load_spec

GOLDEN = Path(__file__).parent / "golden"


def test_every_golden_file_is_tested() -> None:
    tested = {
        "record-v1.jsonl",
        "cost-model-v1.json",
        "costs-v1.json",
        "simulated-device-v1.json",
        "comparison-v1.json",
        "comparison-v2.json",
        "comparison-v3.json",
    }
    assert {path.name for path in GOLDEN.iterdir()} == tested


def test_records_of_version_1() -> None:
    records = read_records(GOLDEN / "record-v1.jsonl")
    assert len({record.point for record in records}) == len(records) == 48
    assert {record.provenance for record in records} == {"simulated"}
    assert fit_cost_model(records, records_sha256=[]).coefficients["byte_l1"].status == "identified"


def test_cost_model_of_version_1() -> None:
    model = load_cost_model(GOLDEN / "cost-model-v1.json")
    assert model.provenance == "simulated"
    low, high = model.coefficients["byte_dram_read"].ci95 or (0.0, 0.0)
    assert low < 3.2e-10 < high


def test_every_version_of_the_cost_model_has_a_golden_file() -> None:
    kept = {path.name for path in GOLDEN.glob("cost-model-v*.json")}
    assert kept == {f"cost-model-v{version}.json" for version in range(1, COST_MODEL_SCHEMA_VERSION + 1)}


def test_costs_of_version_1() -> None:
    assert load_costs(GOLDEN / "costs-v1.json").tensors


def test_simulated_device_of_version_1() -> None:
    assert load_spec(str(GOLDEN / "simulated-device-v1.json")).truth["byte_dram_read"] == 3.2e-10


def test_comparison_of_version_1() -> None:
    comparison = load_comparison(GOLDEN / "comparison-v1.json")
    assert [(entry.label, entry.accuracy.mean) for entry in comparison.entries] == [
        ("dense", 1.0),
        ("cwmp", 1.0),
        ("topk", 1.0),
    ]
    assert comparison.entries[0].seeds == (0, 1)
    assert [variant.price_provenance for variant in comparison.variants] == ["simulated"]
    assert "cwmp" in comparison.verdict[0]


def test_comparison_of_version_2() -> None:
    comparison = load_comparison(GOLDEN / "comparison-v2.json")
    assert [variant.name for variant in comparison.variants] == ["update", "update+uplink"]
    assert {(test.rule, test.rival) for test in comparison.tests} == {("cwmp", "topk")}
    assert all(entry.course is not None and entry.reached for entry in comparison.entries)


def test_comparison_of_version_3() -> None:
    comparison = load_comparison(GOLDEN / "comparison-v3.json")
    assert [(test.rule, test.rival) for test in comparison.tests] == [
        ("cwmp", "topk"),
        ("cwmp-block", "topk"),
        ("cwmp-block", "cwmp"),
    ]
    assert all(entry.course is not None and len(entry.course.gain) == 2 for entry in comparison.entries)


def test_every_version_of_the_comparison_has_a_golden_file() -> None:
    kept = {path.name for path in GOLDEN.glob("comparison-v*.json")}
    assert kept == {f"comparison-v{version}.json" for version in range(1, COMPARISON_SCHEMA_VERSION + 1)}
