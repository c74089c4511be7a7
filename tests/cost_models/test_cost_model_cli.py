from __future__ import annotations

import json
from pathlib import Path

import pytest
from fakes.synthetic_records import POINTS, campaign
from typer.testing import CliRunner, Result

from calibration_data import CalijouleError, InvalidFileError, UsageError
from calibration_data.records import CalibrationRecord
from calibration_data.store import append_record, records_sha256
from cost_models import load_cost_model, save_cost_model
from cost_models.cli import app

POINTS_ENOUGH = [point for point in POINTS if point.family not in ("scatter", "copy")]


def write(path: Path, records: list[CalibrationRecord]) -> Path:
    path.write_text("".join(record.model_dump_json(by_alias=True) + "\n" for record in records))
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def succeed(*arguments: object) -> Result:
    result = run(*arguments)
    if isinstance(result.exception, Exception):
        raise result.exception
    return result


def error_of(*arguments: object) -> BaseException | None:
    return run(*arguments).exception


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of a simulated and of a real device, and the models fitted to them."""
    folder = tmp_path_factory.mktemp("cli")
    for name, kind in (("simulated", "simulated"), ("real", "cpu")):
        records = campaign(points=POINTS_ENOUGH, kind=kind)  # type: ignore[arg-type]
        write(folder / f"{name}.jsonl", records)
        succeed("fit", folder / f"{name}.jsonl", "--out", folder / f"{name}.json")
    return folder


def test_fit_writes_a_model_that_names_its_records(folder: Path) -> None:
    model = load_cost_model(folder / "real.json")
    assert model.document.records_sha256 == tuple(records_sha256([folder / "real.jsonl"]))
    assert model.provenance == "measured"


def test_the_table_has_units_intervals_ranges_and_provenance(folder: Path) -> None:
    out = succeed("show", folder / "real.json").stdout
    line = next(line for line in out.splitlines() if line.strip().startswith("flop_fp32"))
    assert "pJ/FLOP" in line
    assert "±" in line
    assert "…" in line
    assert "identified" in line
    assert "5.0 … 80.0 pJ/FLOP" in line
    assert "measured" in line
    assert "SIMULATED" not in out
    assert "µJ/launch" in out
    assert "scaled condition number" in out
    assert "left out" in out


def test_refused_costs_have_a_reason_and_no_number(tmp_path: Path) -> None:
    records = [record for record in campaign(points=POINTS_ENOUGH, kind="cpu") if record.family != "launch"]
    write(tmp_path / "records.jsonl", records)
    succeed("fit", tmp_path / "records.jsonl", "--out", tmp_path / "model.json")
    out = succeed("show", tmp_path / "model.json").stdout
    line = next(line for line in out.splitlines() if line.strip().startswith("launch"))
    assert line.split() == ["launch", "—", "—", "refused", "—", "measured"]
    assert "launch refused: no record exercises it" in out


def test_simulated_is_said_loudly(folder: Path) -> None:
    out = succeed("show", folder / "simulated.json").stdout
    assert "SIMULATED: no joule here was measured" in out
    assert out.count("SIMULATED") > 10
    assert "measured " not in out.replace("was measured ", "")


def test_json_is_the_model_itself(folder: Path, tmp_path: Path) -> None:
    shown = json.loads(succeed("show", folder / "real.json", "--json").stdout)
    assert shown == json.loads((folder / "real.json").read_text())
    fitted = succeed("fit", folder / "real.jsonl", "--out", tmp_path / "m.json", "--json")
    assert json.loads(fitted.stdout)["coefficients"] == shown["coefficients"]


def test_fit_draws_its_figure(folder: Path, tmp_path: Path) -> None:
    figure = tmp_path / "figures" / "fit.png"
    succeed("fit", folder / "simulated.jsonl", "--out", tmp_path / "m.json", "--figure", figure)
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_fit_draws_all_its_figures_into_a_folder(folder: Path, tmp_path: Path) -> None:
    figures = tmp_path / "figures"
    succeed("fit", folder / "simulated.jsonl", "--out", tmp_path / "m.json", "--figures", figures)
    assert {"roofline.png", "left-out.png", "timeline.png"} < {path.name for path in figures.iterdir()}


def test_published_models_are_listed_and_shown_with_their_sources() -> None:
    listed = succeed("models").stdout
    assert "published:a100" in listed
    sources = json.loads(succeed("models", "--json").stdout)
    shown = succeed("show", "published:a100").stdout
    assert all(f"source: {source}" in shown for source in sources["published:a100"])
    assert "literature" in shown


def test_several_files_are_one_campaign(folder: Path, tmp_path: Path) -> None:
    records = campaign(points=POINTS_ENOUGH)
    halves = [write(tmp_path / f"{part}.jsonl", records[part::2]) for part in (0, 1)]
    succeed("fit", *halves, "--out", tmp_path / "m.json")
    whole, parts = load_cost_model(folder / "real.json"), load_cost_model(tmp_path / "m.json")
    assert parts.document.coefficients == whole.document.coefficients
    assert len(parts.document.records_sha256) == 2


def test_the_seed_is_that_of_the_bootstrap(folder: Path, tmp_path: Path) -> None:
    succeed("fit", folder / "real.jsonl", "--out", tmp_path / "m.json", "--seed", 5)
    one, other = load_cost_model(folder / "real.json"), load_cost_model(tmp_path / "m.json")
    assert other.values(["idle_w"]) == one.values(["idle_w"])
    assert other.document.covariance != one.document.covariance


def test_validate_accepts_a_fitted_model(folder: Path) -> None:
    out = succeed("validate", folder / "real.json").stdout
    assert "a valid cost model" in out
    assert "0 warnings." in out


def test_validate_warns_of_what_no_device_has(folder: Path, tmp_path: Path) -> None:
    model = load_cost_model(folder / "real.json").with_assumed({"flop_fp64": 1e-9})
    save_cost_model(tmp_path / "odd.json", model)
    out = succeed("validate", tmp_path / "odd.json").stdout
    assert "warning: flop_fp64 is outside the published range" in out
    assert "1 warning." in out


@pytest.mark.parametrize("command", ["show", "validate"])
def test_an_invalid_model_is_an_error_of_the_file(command: str, tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text("{}")
    error = error_of(command, tmp_path / "m.json")
    assert isinstance(error, InvalidFileError)
    assert error.exit_code == 4


def test_records_that_disagree_are_a_usage_error_and_nothing_is_written(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.json"
    error = error_of("fit", folder / "real.jsonl", folder / "simulated.jsonl", "--out", out)
    assert isinstance(error, UsageError)
    assert not out.exists()


def test_torn_records_are_an_error_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "torn.jsonl"
    append_record(path, campaign(points=POINTS[:1])[0])
    path.write_bytes(path.read_bytes()[:-20])
    assert isinstance(error_of("fit", path, "--out", tmp_path / "m.json"), InvalidFileError)


def test_a_figure_of_unknown_kind_is_refused_before_anything_is_done(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.json"
    error = error_of("fit", folder / "real.jsonl", "--out", out, "--figure", tmp_path / "fit.docx")
    assert isinstance(error, UsageError)
    assert not out.exists()


def test_a_figure_that_cannot_be_written_is_an_error_of_ours(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "fit.png").mkdir()
    error = error_of(
        "fit", folder / "real.jsonl", "--out", tmp_path / "m.json", "--figure", tmp_path / "fit.png"
    )
    assert isinstance(error, CalijouleError)


def test_names_from_a_file_cannot_command_the_terminal(tmp_path: Path) -> None:
    records = campaign(points=POINTS_ENOUGH)
    device = records[0].device.model_copy(update={"model_name": "[bold]\x1b[2J[/nonsense]"})
    path = write(
        tmp_path / "r.jsonl",
        [r.model_copy(update={"device": device, "family": f"[red]{r.family}\x07[/x]"}) for r in records],
    )
    out = succeed("fit", path, "--out", tmp_path / "m.json").stdout
    assert "\x1b[2J" not in out
    assert "\x07" not in out
    assert "[bold]?[2J[/nonsense]" in out
    assert "[red]load?[/x]" in out
