"""Older comparison files in the words of the newest version: one step from each to the next."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from cost_models.migrations import Step
from cwmp.comparison.seed_statistics import seed_mean


def update_to_2(data: dict[str, Any]) -> dict[str, Any]:
    """One unnamed variant; what version 1 did not keep stays empty."""
    seeds = data["seeds"]
    return {
        "schema": data["schema"],
        "budget_unit": data["budget_unit"],
        "seeds": seeds,
        "variants": [
            {
                "name": "",
                "settings": {},
                "cost_model_device": "",
                "price_provenance": data["price_provenance"],
            }
        ],
        "entries": [_entry_of_2(entry, seeds) for entry in data["entries"]],
        "tests": [],
        "failures": [],
        "verdict": data["verdict"],
    }


def _entry_of_2(entry: dict[str, Any], seeds: list[int]) -> dict[str, Any]:
    kept = {key: value for key, value in entry.items() if key not in ("mean_accuracy", "accuracy_u")}
    return {
        **kept,
        "variant": "",
        "equal_prices": False,
        "seeds": seeds,
        "accuracy": seed_mean(entry["tail_accuracies"]).model_dump(),
        "spent_fraction": None,
        "course": None,
        "density": {},
        "reached": [],
    }


def update_to_3(data: dict[str, Any]) -> dict[str, Any]:
    """Tests were of ``cwmp`` alone; what prices brought by round was not kept."""
    courses = [entry["course"] for entry in data["entries"]]
    return {
        **data,
        "entries": [
            {**entry, "course": course and {**course, "gain": []}}
            for entry, course in zip(data["entries"], courses, strict=True)
        ],
        "tests": [{**test, "rule": "cwmp"} for test in data["tests"]],
    }


STEPS: Mapping[int, Step] = MappingProxyType({1: update_to_2, 2: update_to_3})
"""By the version that a step starts from."""
