"""The costs file: what is written is what is read, and a broken file is one clear error."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from fakes.known_costs import known_cost_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from calibration_data import InvalidFileError, UsageError, Work
from cwmp.cost_document import (
    MAX_FILE_BYTES,
    CostsDocument,
    costs_document,
    costs_json_schema,
    load_costs,
    save_costs,
)
from cwmp.cost_vector import CostVector, cost_vector

ROOT = Path(__file__).resolve().parents[2]
CREATED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(600, 400), nn.Linear(3000, 1500))


@pytest.fixture
def vector() -> CostVector:
    return cost_vector(
        network(),
        known_cost_model(relative_u=0.02),
        boundary="update+uplink",
        link="nvlink-c2c",
        density=0.05,
    )


@pytest.fixture
def document(vector: CostVector) -> CostsDocument:
    return costs_document(vector, created=CREATED)


@pytest.fixture
def path(document: CostsDocument, tmp_path: Path) -> Path:
    path = tmp_path / "new" / "costs.json"
    save_costs(path, document)
    return path


def test_a_saved_file_is_read_back_whole(document: CostsDocument, path: Path) -> None:
    assert load_costs(path) == document
    assert list(path.parent.iterdir()) == [path]
    jsonschema.validate(json.loads(path.read_text()), costs_json_schema())


def test_it_says_what_the_vector_says(vector: CostVector, document: CostsDocument) -> None:
    assert document.prices_j == vector.prices_j
    assert document.provenance == "simulated"
    assert document.boundary == "update+uplink"
    assert document.created == "2026-01-02T03:04:05+00:00"
    assert document.var_ln_c == vector.var_ln_c
    assert [gain.budget_share for gain in document.gains] == [0.01, 0.05, 0.2]
    assert "Var(ln c)" in document.verdict
    assert any("nvlink-c2c" in note for note in document.notes)
    entry = document.tensors[0]
    assert (entry.name, entry.shape, entry.numel, entry.level) == ("0.weight", (8, 3, 3, 3), 216, "l1")


def test_prices_follow_from_the_work_and_a_cost_model(document: CostsDocument) -> None:
    model = known_cost_model()
    for tensor in document.tensors:
        work = Work(tensor.work.pack) + Work(tensor.work.apply)
        assert model.predict_j(work).value + tensor.uplink_j == pytest.approx(tensor.price_j)
    fixed = sum((Work(tensor.work.fixed) for tensor in document.tensors), start=Work())
    assert model.predict_j(fixed).value == pytest.approx(document.fixed_j.value)


def test_masks_can_be_priced_from_the_file_alone(vector: CostVector, document: CostsDocument) -> None:
    generator = torch.Generator().manual_seed(0)
    masks = {
        name: torch.rand(cost.layout.shape, generator=generator) < 0.05
        for name, cost in vector.tensors.items()
    }
    exact = vector.evaluate(masks)
    kept = {name: touched.kept for name, touched in exact.touched.items()}
    lines = {name: touched.lines for name, touched in exact.touched.items()}
    assert document.marginal_j(kept, lines) == pytest.approx(exact.marginal_j.value, rel=0.02)
    with pytest.raises(UsageError, match="no tensor other"):
        document.marginal_j({"other": 1}, {})


def test_the_published_schema_and_the_example_are_current(tmp_path: Path) -> None:
    published = json.loads((ROOT / "cwmp" / "schema" / "costs-v1.json").read_text())
    assert published == costs_json_schema()
    golden = load_costs(ROOT / "tests" / "golden" / "costs-v1.json")
    save_costs(tmp_path / "again.json", golden)
    assert load_costs(tmp_path / "again.json") == golden


def change(path: Path, change_data: Any) -> None:
    data = json.loads(path.read_text())
    change_data(data)
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("field", "broken"),
    [
        ("schema", lambda d: d.update(schema="calijoule/record")),
        ("schema_version", lambda d: d.update(schema_version=2)),
        ("surprise", lambda d: d.update(surprise=1)),
        ("provenance", lambda d: d.update(provenance="guessed")),
        ("tensors.0.price_j", lambda d: d["tensors"][0].update(price_j=0.0)),
        ("tensors.0.price_j", lambda d: d["tensors"][0].update(price_j=-1.0)),
        ("tensors.0.price_j", lambda d: d["tensors"][0].update(price_j="1")),
        ("tensors.0.density", lambda d: d["tensors"][0].update(density=1.5)),
        ("tensors.0.level", lambda d: d["tensors"][0].update(level="l9")),
        ("tensors.0.work.pack", lambda d: d["tensors"][0]["work"]["pack"].update(byte_l9=1.0)),
        ("fixed_j.value", lambda d: d["fixed_j"].update(value=-1.0)),
        ("tensors", lambda d: d.update(tensors=[])),
        ("a tensor is given twice", lambda d: d["tensors"].append(d["tensors"][0])),
        ("does not fit its link", lambda d: d.update(link=None)),
        ("var_ln_c", lambda d: d.pop("var_ln_c")),
        ("device.memory", lambda d: d["device"]["memory"].update(l1_bytes=-1)),
    ],
)
def test_a_broken_field_is_named(path: Path, field: str, broken: Any) -> None:
    change(path, broken)
    with pytest.raises(InvalidFileError, match=field) as error:
        load_costs(path)
    assert error.value.exit_code == 4
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content", ["", "nonsense", "[1, 2]", "null", "[" * 100_000, '{"schema": NaN}', "\x00\xff", '"\ud83d"']
)
def test_what_is_no_costs_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "costs.json"
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(InvalidFileError, match=r"costs\.json"):
        load_costs(path)


def test_numbers_that_are_none_are_refused(path: Path) -> None:
    text = path.read_text()
    price = json.loads(text)["tensors"][0]["price_j"]
    for nonsense in ("NaN", "Infinity", "1e999"):
        path.write_text(text.replace(f'"price_j": {price}', f'"price_j": {nonsense}', 1))
        with pytest.raises(InvalidFileError):
            load_costs(path)


@given(st.floats(0, 0.999))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
def test_a_torn_file_is_never_read(document: CostsDocument, tmp_path: Path, fraction: float) -> None:
    path = tmp_path / "torn.json"
    data = document.model_dump_json(by_alias=True).encode()
    path.write_bytes(data[: int(fraction * len(data))])
    with pytest.raises(InvalidFileError):
        load_costs(path)


def test_missing_and_oversized_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidFileError, match="calijoule export"):
        load_costs(tmp_path / "nowhere.json")
    with pytest.raises(InvalidFileError):
        load_costs(tmp_path)
    huge = tmp_path / "huge.json"
    with open(huge, "wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(InvalidFileError, match="larger than"):
        load_costs(huge)


def test_a_place_that_cannot_be_written_is_a_usage_error(document: CostsDocument, path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        save_costs(path / "below-a-file.json", document)
    assert load_costs(path) == document
