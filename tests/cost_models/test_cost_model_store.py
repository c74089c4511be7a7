from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from fakes.synthetic_records import POINTS, campaign
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cost_models
from calibration_data import InvalidFileError, UsageError
from cost_models import CostModel, fit_cost_model, load_cost_model, save_cost_model
from cost_models.document import cost_model_json_schema
from cost_models.store import MAX_FILE_BYTES

MODEL = fit_cost_model(campaign(points=POINTS[:14]), records_sha256=["a" * 64])
GOOD: dict[str, Any] = json.loads(MODEL.document.model_dump_json(by_alias=True))


def refusal(path: Path, content: str | bytes) -> InvalidFileError:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InvalidFileError) as caught:
        load_cost_model(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert caught.value.exit_code == 4
    return caught.value


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.json"


def test_what_is_saved_is_what_is_loaded(path: Path) -> None:
    save_cost_model(path, MODEL)
    assert load_cost_model(path) == MODEL


def test_numbers_survive_to_the_last_digit(path: Path) -> None:
    save_cost_model(path, MODEL)
    again = load_cost_model(path)
    save_cost_model(path, again)
    assert load_cost_model(path).document.covariance.matrix == MODEL.document.covariance.matrix


def test_saving_replaces_the_file_and_leaves_nothing_beside_it(path: Path) -> None:
    path.write_text("old")
    save_cost_model(path, MODEL)
    assert load_cost_model(path).document == MODEL.document
    assert [entry.name for entry in path.parent.iterdir()] == ["model.json"]


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    occupied = tmp_path / "model.json"
    occupied.mkdir()
    (occupied / "kept").write_text("kept")
    with pytest.raises(UsageError, match="cannot be written"):
        save_cost_model(occupied, MODEL)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.json"]


def test_folders_are_made(tmp_path: Path) -> None:
    save_cost_model(tmp_path / "new" / "model.json", MODEL)
    assert load_cost_model(tmp_path / "new" / "model.json").document == MODEL.document


def test_a_saved_file_fits_the_published_schema(path: Path) -> None:
    save_cost_model(path, MODEL)
    schema = cost_model_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(path.read_text()), schema)


def test_the_published_schema_is_up_to_date() -> None:
    published = Path(cost_models.__file__).parent / "schema" / "cost-model-v1.json"
    assert json.loads(published.read_text()) == cost_model_json_schema()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("null", "field 'schema'"),
        ("[]", "field 'schema'"),
        ("3", "field 'schema'"),
        ("{}", "field 'schema'"),
        (b"\xff\xfe{}", "not UTF-8"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"schema": 1e999}', "field 'schema'"),
        ('{"schema": NaN}', "NaN is not a number"),
        ('{"schema": -Infinity}', "-Infinity is not a number"),
        ('{"schema": ' + "9" * 5000 + "}", "not valid JSON"),
        ('{"schema": "calijoule/cost-model", "schema": "calijoule/cost-model"}', "'schema' is given twice"),
        ('{"schema": "calijoule/record", "schema_version": 1}', "field 'schema'"),
        ('{"schema": "calijoule/cost-model"}', "field 'schema_version'"),
        ('{"schema": "calijoule/cost-model", "schema_version": 2}', "version 2 is not one that this program"),
        ('{"schema": "calijoule/cost-model", "schema_version": true}', "version True"),
        ('{"schema": "calijoule/cost-model", "schema_version": "1"}', "version '1'"),
        ('{"schema": "calijoule/cost-model", "schema_version": 1}', "field 'provenance'"),
        ('{"\\ud800": 1, "schema": "calijoule/cost-model", "schema_version": 1}', ""),
    ],
)
def test_hostile_files_are_refused_in_one_line(path: Path, content: str | bytes, words: str) -> None:
    assert words in str(refusal(path, content))


def test_missing_files_and_folders_are_refused(path: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidFileError, match="cannot be read"):
        load_cost_model(path)
    with pytest.raises(InvalidFileError, match="cannot be read"):
        load_cost_model(tmp_path)


def test_a_huge_file_is_refused_before_it_is_read_whole(path: Path) -> None:
    assert "larger than" in str(refusal(path, b" " * (MAX_FILE_BYTES + 1)))


def coefficient(document: dict[str, Any], name: str) -> dict[str, Any]:
    return next(item for item in document["coefficients"] if item["name"] == name)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda d: d.update(comment="x"), "comment"),
        (lambda d: d.update({"x\n\x1b[31m" * 100: 1}), "x\\n\\x1b[31m"),
        (lambda d: d.update(provenance="guessed"), "provenance"),
        (lambda d: d.update(coefficients=[]), "coefficients"),
        (lambda d: d.update(coefficients=d["coefficients"] * 20), "coefficients"),
        (lambda d: d.update(created="x" * 300), "created"),
        (lambda d: d.update(created="yesterday"), "created: it is no ISO 8601 time"),
        (lambda d: d["validity"].update(threads=[8, 1]), "validity"),
        (lambda d: d.update(records_sha256=["zz"]), "records_sha256.0"),
        (lambda d: d["device"].update(kind="toaster"), "device.kind"),
        (lambda d: d["device"]["memory"].update(l1_bytes=-1), "device.memory"),
        (lambda d: coefficient(d, "idle_w").update(value="20"), "coefficients.0.value"),
        (lambda d: coefficient(d, "idle_w").update(value=True), "coefficients.0.value"),
        (lambda d: coefficient(d, "idle_w").update(value=-1.0), "coefficients.0.value"),
        (lambda d: coefficient(d, "idle_w").update(value=10**400), ""),
        (lambda d: coefficient(d, "idle_w").update(value=1e6), "coefficients.0"),
        (lambda d: coefficient(d, "idle_w").update(unit="J"), "coefficients.0"),
        (lambda d: d["covariance"]["matrix"][0].__setitem__(0, 1e9), "covariance"),
        (lambda d: d["covariance"]["matrix"].pop(), "covariance"),
        (lambda d: d["throughput"].update(byte_l1=-1.0), "throughput.byte_l1"),
        (lambda d: d["diagnostics"].update(coverage95_leave_one_family_out=1.5), "diagnostics.coverage95"),
    ],
)
def test_the_field_that_breaks_the_schema_is_named(path: Path, change: Any, field: str) -> None:
    document = copy.deepcopy(GOOD)
    change(document)
    assert field in str(refusal(path, json.dumps(document)))


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON document."""
    children: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        children = list(value.items())
    elif isinstance(value, list):
        children = list(enumerate(value))
    return [at, *(place for key, child in children for place in places(child, (*at, key)))]


PLACES = [place for place in places(GOOD) if place]
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(min_value=-(10**30), max_value=10**30),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=30),
    st.just([]),
    st.just({}),
    st.just([[1.0]]),
    st.just("\x1b]0;owned\x07\n"),
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.sampled_from(PLACES), value=VALUES, remove=st.booleans())
def test_any_mutation_loads_whole_or_is_refused_in_one_line(
    path: Path, place: tuple[Any, ...], value: Any, remove: bool
) -> None:
    document = copy.deepcopy(GOOD)
    holder = document
    for key in place[:-1]:
        holder = holder[key]
    if remove:
        del holder[place[-1]]
    else:
        holder[place[-1]] = value
    path.write_text(json.dumps(document))
    loaded = loaded_or_refusal(path)
    if isinstance(loaded, str):
        assert "\n" not in loaded
        assert len(loaded) < 1000
        return
    for item in loaded.coefficients.values():
        assert all(math.isfinite(limit) and limit >= 0 for limit in item.ci95 or ())


def loaded_or_refusal(path: Path) -> CostModel | str:
    try:
        return load_cost_model(path)
    except InvalidFileError as error:
        return str(error)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200))
def test_any_bytes_are_refused_in_one_line(path: Path, content: bytes) -> None:
    refusal(path, content)
