from __future__ import annotations

from typing import Any

import pytest

from cost_models.document import COST_MODEL_SCHEMA_VERSION
from cost_models.migrations import STEPS, migrate


def renamed(data: dict[str, Any]) -> dict[str, Any]:
    return {("joules" if key == "energy" else key): value for key, value in data.items()}


def doubled(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "joules": 2 * data["joules"]}


STEPS_OF_A_TOY_FORMAT = {1: renamed, 2: doubled}


def test_every_version_but_the_newest_has_a_step() -> None:
    assert set(STEPS) == set(range(1, COST_MODEL_SCHEMA_VERSION))


def test_a_file_goes_through_all_steps_from_its_version_on() -> None:
    first = {"schema_version": 1, "energy": 3}
    second = {"schema_version": 2, "joules": 3}
    third = {"schema_version": 3, "joules": 6}
    assert migrate(first, 1, 3, STEPS_OF_A_TOY_FORMAT) == third
    assert migrate(second, 2, 3, STEPS_OF_A_TOY_FORMAT) == third
    assert migrate(third, 3, 3, STEPS_OF_A_TOY_FORMAT) is third
    assert first == {"schema_version": 1, "energy": 3}


def test_a_missing_step_is_an_error_and_not_a_guess() -> None:
    with pytest.raises(KeyError):
        migrate({"schema_version": 1}, 1, 2, {})
