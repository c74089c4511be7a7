from pathlib import Path

import pytest
from pydantic import ValidationError

from calibration_data import InvalidFileError, UsageError
from cwmp.config import TrainingConfig, load_training_config, training_config


def test_settings_of_a_toml_file_are_those_of_keyword_arguments(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('dataset = "synthetic"\nselector = "topk"\nbudget_fraction = 0.1\nclients = 4\n')
    expected = training_config(dataset="synthetic", selector="topk", budget_fraction=0.1, clients=4)
    assert load_training_config(path) == expected
    assert load_training_config(path, clients=5) == expected.model_copy(update={"clients": 5})


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"budget_fraction": 0.1, "learning_rat": 0.1}, "'learning_rat'"),
        ({"budget_fraction": 1.5}, "budget_fraction"),
        ({"budget_fraction": 0.1, "budget_j": 1.0}, "exclude each other"),
        ({}, "the rule cwmp needs budget_j or budget_fraction"),
        ({"budget_j": float("nan")}, "budget_j"),
        ({"budget_j": 1.0, "boundary": "update+uplink"}, "needs a link"),
        ({"budget_j": 1.0, "link": "wifi-2012"}, "only inside the boundary update\\+uplink"),
        ({"budget_j": 1.0, "confidence": 1.0}, "confidence"),
        ({"budget_j": 1.0, "participation": 0.0}, "participation"),
        ({"budget_j": 1.0, "selector": "median"}, "selector"),
        ({"budget_j": 1.0, "selector": "threshold"}, "at_least belongs to the selector threshold"),
        ({"budget_j": 1.0, "at_least": 0.1}, "at_least belongs to the selector threshold"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, object], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        training_config(**settings)


def test_dense_needs_no_budget() -> None:
    assert training_config(selector="dense").budget_j is None


def test_a_config_cannot_be_changed() -> None:
    config = training_config(selector="dense")
    with pytest.raises(ValidationError, match="frozen"):
        config.rounds = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"rounds = ", "no TOML"),
        (b"\xff\xfe", "no TOML"),
        (b'selector = "dense"\nround = 3\n', "'round'"),
        (b"#" * 1_000_001, "larger than"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(content)
    with pytest.raises(InvalidFileError, match=problem) as caught:
        load_training_config(path)
    assert str(path) in str(caught.value)
    with pytest.raises(InvalidFileError, match="cannot be read"):
        load_training_config(tmp_path / "missing.toml")


def test_every_setting_is_described() -> None:
    assert TrainingConfig.__doc__ is not None
    assert all(f"{name}:" in TrainingConfig.__doc__ for name in TrainingConfig.model_fields)
