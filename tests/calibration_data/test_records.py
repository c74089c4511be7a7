from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from fakes.synthetic_records import POINTS, campaign
from pydantic import ValidationError

import calibration_data
from calibration_data.records import CalibrationRecord, Window, record_json_schema

RECORD = campaign(points=[point for point in POINTS if point.name == "load-l2-t8"])[0]
GOOD: dict[str, Any] = json.loads(RECORD.model_dump_json(by_alias=True))


def test_a_record_survives_the_file_to_the_last_digit() -> None:
    assert CalibrationRecord.model_validate_json(RECORD.model_dump_json(by_alias=True)) == RECORD


def test_the_work_of_a_window_is_its_loops_and_its_times() -> None:
    record = RECORD.model_copy(update={"loops": 3})
    window = record.replicates[0]
    work = record.window_work(window)
    assert work["byte_l2"] == 3 * record.work_per_loop["byte_l2"]
    assert work["idle_w"] == work["dram_idle_w"] == window.duration_s
    assert work["awake_w"] == window.active_s
    assert work["core_w"] == 8 * window.active_s


def test_a_record_fits_the_published_schema() -> None:
    schema = record_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(GOOD, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**GOOD, "loops": 0}, schema)


def test_the_published_schema_is_up_to_date() -> None:
    published = Path(calibration_data.__file__).parent / "schema" / "record-v1.json"
    assert json.loads(published.read_text()) == record_json_schema()


def set_at(*place: Any, value: Any) -> Any:
    def change(record: dict[str, Any]) -> None:
        holder: Any = record
        for key in place[:-1]:
            holder = holder[key]
        holder[place[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_at("comment", value="x"), "comment"),
        (set_at("schema", value="calijoule/cost-model"), "schema"),
        (set_at("schema_version", value=2), "schema_version"),
        (set_at("provenance", value="literature"), "provenance"),
        (set_at("loops", value=0), "loops"),
        (set_at("loops", value=10**400), "loops"),
        (set_at("point", value=""), "point"),
        (set_at("point", value="x" * 300), "point"),
        (set_at("replicates", value=[]), "replicates"),
        (set_at("sensors", value=[]), "sensors"),
        (set_at("sensors", 0, "update_period_s", value=math.nan), "sensors.0.update_period_s"),
        (set_at("sensors", 0, "extra", value=1), "sensors.0.extra"),
        (set_at("device", "memory", "cores", value=0), "device.memory"),
        (set_at("work_per_loop", "flop_fp99", value=1.0), "not a term"),
        (set_at("work_per_loop", "idle_w", value=1.0), "is a time"),
        (set_at("work_per_loop", "launch", value=-1.0), "launch"),
        (set_at("replicates", 0, "energy_j", "package-0", value=-1.0), "energy_j.package-0"),
        (set_at("replicates", 0, "energy_j", "package-0", value=math.inf), "energy_j.package-0"),
        (set_at("replicates", 0, "energy_j", value={"package-0": 1.0}), "the sensors are"),
        (set_at("idle_after", "energy_j", "psys", value=1.0), "the sensors are"),
        (set_at("replicates", 0, "duration_s", value=0.0), "duration_s"),
        (set_at("replicates", 0, "active_s", value=1e3), "exceed its duration"),
        (set_at("replicates", 0, "busy_core_s", value=1e3), "exceed its duration"),
    ],
)
def test_a_record_that_breaks_physics_or_the_schema_is_refused(change: Any, words: str) -> None:
    record = copy.deepcopy(GOOD)
    change(record)
    with pytest.raises(ValidationError) as caught:
        CalibrationRecord.model_validate_json(json.dumps(record))
    first = caught.value.errors()[0]
    assert words in ".".join(map(str, first["loc"])) + first["msg"]


def test_amounts_that_overflow_are_refused() -> None:
    record = copy.deepcopy(GOOD)
    record["work_per_loop"]["byte_l1"] = 1e300
    record["loops"] = 10**10
    with pytest.raises(ValidationError, match="overflow"):
        CalibrationRecord.model_validate_json(json.dumps(record))


def test_records_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        RECORD.loops = 2  # type: ignore[misc]


def test_an_idle_window_needs_no_busy_time() -> None:
    window = Window(started_s=0.0, duration_s=1.0, energy_j={"package-0": 5.0})
    assert (window.active_s, window.busy_core_s, window.notes) == (0.0, 0.0, ())
