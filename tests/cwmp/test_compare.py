import csv
import json
from pathlib import Path
from typing import Any

import pytest
from fakes.known_costs import known_cost_model

from calibration_data import UsageError
from cwmp.comparison.compare import COMPARISON, RUNS, TABLE, PlannedRun, compare, planned_runs
from cwmp.comparison.findings import ComparisonReport, Entry, comparison_report
from cwmp.config import RuleName, TrainingConfig, training_config
from cwmp.training.run_files import SUMMARY
from cwmp.training.run_record import RunReport
from profiler.devices import open_device

MODEL = known_cost_model(relative_u=0.02)
BASE = training_config(dataset="synthetic", clients=2, rounds=2, selector="dense")
RULES: tuple[RuleName, ...] = ("cwmp", "topk", "dense")


def run(out: Path, *, seeds: tuple[int, ...] = (0, 1), **options: Any) -> ComparisonReport:
    device = open_device("sim:server-cpu")
    return compare(BASE, MODEL, out, rules=RULES, budgets=(0.1,), seeds=seeds, device=device, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("comparisons") / "all"
    run(out)
    return out


def test_every_rule_budget_and_seed_is_a_run(folder: Path) -> None:
    names = {path.name for path in (folder / RUNS).iterdir()}
    assert names == {f"{rule}-s{seed}" for rule in ("cwmp-b0.1", "topk-b0.1", "dense") for seed in (0, 1)}
    report = ComparisonReport.model_validate_json((folder / COMPARISON).read_text())
    assert [(entry.rule, entry.budget) for entry in report.entries] == [
        ("dense", None),
        ("cwmp", 0.1),
        ("topk", 0.1),
    ]
    for entry in report.entries:
        summaries = [
            RunReport.model_validate_json((folder / RUNS / name / SUMMARY).read_text()) for name in entry.runs
        ]
        assert entry.tail_accuracies == tuple(summary.tail_accuracy for summary in summaries)
        assert entry.measured_provenance == "simulated"
    assert any("cwmp" in sentence and "topk" in sentence for sentence in report.verdict)
    assert report.verdict[-1].startswith("Keeping everything reaches")


def test_the_table_is_tidy_and_its_joules_are_cumulative(folder: Path) -> None:
    rows = list(csv.DictReader((folder / TABLE).read_text().splitlines()))
    assert len(rows) == 6 * BASE.rounds
    by_run: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in rows:
        by_run.setdefault((row["rule"], row["seed"]), []).append(row)
    for (rule, _), run_rows in by_run.items():
        assert [row["round"] for row in run_rows] == ["1", "2"]
        for key in ("boundary_j", "predicted_j", "measured_j"):
            assert 0 < float(run_rows[0][key]) < float(run_rows[1][key])
        # the boundary is the update: nothing but select, pack and apply is in it
        assert float(run_rows[1]["boundary_j"]) == pytest.approx(float(run_rows[1]["predicted_j"]))
        assert float(run_rows[1]["measured_j"]) == pytest.approx(float(run_rows[1]["predicted_j"]), rel=0.05)
        assert (run_rows[0]["budget"] == "") == (rule == "dense")
        assert run_rows[0]["provenance"] == "simulated"


def test_a_comparison_goes_on_where_it_stopped(folder: Path, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def kill(plan: PlannedRun, number: int, count: int) -> None:
        if number == 4:
            raise Killed

    out = tmp_path / "all"
    with pytest.raises(Killed):
        run(out, on_run=kill)
    assert not (out / COMPARISON).exists()
    with pytest.raises(UsageError, match="exists already"):
        run(out)
    rounds = []
    run(out, resume=True, on_round=lambda plan, report: rounds.append((plan.name, report.round)))
    assert len(rounds) == 3 * BASE.rounds
    assert json.loads((out / COMPARISON).read_text()) == json.loads((folder / COMPARISON).read_text())


def plans(**changes: Any) -> list[PlannedRun]:
    options: dict[str, Any] = {
        "rules": RULES,
        "budgets": (0.1, 0.2),
        "budget_unit": "fraction",
        "seeds": (0,),
    }
    return planned_runs(BASE, **{**options, **changes})


def test_dense_runs_once_per_seed() -> None:
    assert [plan.name for plan in plans()] == [
        "dense-s0",
        "cwmp-b0.1-s0",
        "topk-b0.1-s0",
        "cwmp-b0.2-s0",
        "topk-b0.2-s0",
    ]
    assert [plan.config.budget_j for plan in plans(budget_unit="J")] == [None, 0.1, 0.1, 0.2, 0.2]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"rules": ()}, "at least one rule"),
        ({"budgets": ()}, "at least one rule, one budget"),
        ({"seeds": ()}, "at least one rule"),
        ({"seeds": (1, 1)}, "name something twice"),
        ({"budgets": (0.1, 0.1)}, "name something twice"),
        ({"budgets": (0.1, 0.1000000001)}, "first six digits"),
        ({"budgets": (1.5,)}, "budget_fraction"),
    ],
)
def test_a_senseless_comparison_is_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        plans(**changes)


# the verdict, on invented accuracies


def summary(folder: Path, rule: RuleName, seed: int, accuracy: float, joules: float) -> RunReport:
    template = RunReport.model_validate_json((folder / RUNS / "cwmp-b0.1-s0" / SUMMARY).read_text())
    settings = {"selector": rule, "seed": seed, "budget_fraction": None if rule == "dense" else 0.1}
    config = TrainingConfig(**{**template.identity.config.model_dump(), **settings})
    identity = template.identity.model_copy(update={"config": config})
    changes = {"identity": identity, "tail_accuracy": accuracy, "boundary_j": joules}
    return template.model_copy(update=changes)


def judged(folder: Path, **accuracies: tuple[float, ...]) -> ComparisonReport:
    runs = {
        f"{rule}-s{seed}": summary(folder, rule, seed, accuracy, 2.0 if rule == "dense" else 1.0)  # type: ignore[arg-type]
        for rule, values in accuracies.items()
        for seed, accuracy in enumerate(values)
    }
    seeds = range(len(next(iter(accuracies.values()))))
    return comparison_report(runs, budget_unit="fraction", seeds=tuple(seeds))


@pytest.mark.parametrize(
    ("cwmp", "topk", "word"),
    [
        ((0.90,), (0.85,), "ends 5.0 points above topk"),
        ((0.85,), (0.90,), "ends 5.0 points below topk"),
        ((0.900,), (0.895,), "ends 0.5 points above topk"),
        ((0.90, 0.91, 0.92), (0.85, 0.86, 0.87), "beats topk"),
        ((0.85, 0.86, 0.87), (0.90, 0.91, 0.92), "loses to topk"),
        # on average 3 points better, but by chance: the seeds disagree
        ((0.95, 0.80, 0.90), (0.80, 0.90, 0.86), "ties with topk"),
    ],
)
def test_the_verdict_knows_wins_losses_and_ties(
    folder: Path, cwmp: tuple[float, ...], topk: tuple[float, ...], word: str
) -> None:
    sentence = judged(folder, cwmp=cwmp, topk=topk).verdict[0]
    assert f"cwmp {word}:" in sentence
    assert ("one seed" in sentence) == (len(cwmp) == 1)


def test_the_front_is_what_nothing_beats_in_accuracy_and_joules(folder: Path) -> None:
    entries = judged(folder, cwmp=(0.9,), topk=(0.8,), dense=(0.95,)).entries
    assert {entry.rule: entry.pareto for entry in entries} == {"cwmp": True, "topk": False, "dense": True}
    assert all(isinstance(entry, Entry) and entry.accuracy_u is None for entry in entries)
