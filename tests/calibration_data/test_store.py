from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from fakes.synthetic_records import POINTS, campaign
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calibration_data import InvalidFileError
from calibration_data.store import (
    MAX_LINE_BYTES,
    append_record,
    finished_records,
    read_records,
    records_sha256,
)

RECORDS = campaign(points=POINTS[:3])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records.jsonl"


@pytest.fixture
def written(path: Path) -> Path:
    for record in RECORDS:
        append_record(path, record)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(InvalidFileError) as caught:
        read_records(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    return str(caught.value)


def test_what_is_appended_is_read_in_order(written: Path) -> None:
    assert read_records(written) == RECORDS
    assert finished_records(written) == RECORDS


def test_one_record_is_one_line_of_json(written: Path) -> None:
    lines = written.read_text().splitlines()
    assert len(lines) == len(RECORDS)
    assert [json.loads(line)["point"] for line in lines] == [record.point for record in RECORDS]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_crash_at_any_byte_costs_at_most_the_torn_record(written: Path, data: st.DataObject) -> None:
    whole = written.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    written.write_bytes(whole[:cut])
    kept = whole[:cut].count(b"\n")
    assert finished_records(written) == RECORDS[:kept]
    append_record(written, RECORDS[2])
    assert read_records(written) == [*RECORDS[:kept], RECORDS[2]]
    written.write_bytes(whole)


def test_a_torn_end_is_named_with_its_repair(written: Path) -> None:
    written.write_bytes(written.read_bytes()[:-10])
    message = refusal(written)
    assert "line 3 is torn" in message
    assert "--resume" in message


def test_a_missing_file_has_no_finished_records_and_cannot_be_read(path: Path) -> None:
    assert finished_records(path) == []
    assert "cannot be read" in refusal(path)


def test_a_folder_cannot_be_read(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path)


def test_an_empty_file_holds_no_record(path: Path) -> None:
    path.touch()
    assert "no record" in refusal(path)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{}", "line 4: field 'campaign'"),
        (b"null", "line 4"),
        (b"", "line 4"),
        (b"\xff\xff", "line 4"),
        (b"[" * 50_000, "recursion limit"),
        (b'{"loops": ' + b"9" * 5000 + b"}", "line 4"),
        (b'{"' + b"\\u001b[31m" * 500 + b'": 1}', "line 4"),
    ],
)
def test_a_broken_line_is_named_by_number(written: Path, line: bytes, words: str) -> None:
    with open(written, "ab") as file:
        file.write(line + b"\n")
    message = refusal(written)
    assert words in message
    assert "\x1b" not in message
    with pytest.raises(InvalidFileError):
        finished_records(written)


def test_the_field_that_breaks_the_schema_is_named(written: Path) -> None:
    record = json.loads(RECORDS[0].model_dump_json(by_alias=True))
    record["replicates"][1]["duration_s"] = -1
    with open(written, "a") as file:
        file.write(json.dumps(record) + "\n")
    assert "line 4: field 'replicates.1.duration_s'" in refusal(written)


def test_a_cost_model_in_place_of_records_is_refused_with_the_next_step(path: Path) -> None:
    path.write_text('{\n "schema": "calijoule/cost-model"\n}\n')
    with pytest.raises(InvalidFileError, match=r"line 1: .*calijoule profile.*calijoule show"):
        read_records(path)


def test_an_endless_line_is_refused(path: Path) -> None:
    path.write_bytes(b" " * (MAX_LINE_BYTES + 1) + b"\n")
    assert "longer than" in refusal(path)


def test_digests_are_those_of_the_files(written: Path) -> None:
    expected = hashlib.sha256(written.read_bytes()).hexdigest()
    assert records_sha256([written, written]) == [expected, expected]
