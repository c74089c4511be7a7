"""A comparison makes every run once, survives kills and failures, and tells differences from chance."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fakes.known_costs import known_cost_model

from calibration_data import InvalidFileError, UsageError
from cost_models import CostModel, save_cost_model
from cwmp.comparison.compare import COMPARISON, RUNS, compare, no_device
from cwmp.comparison.course import RunCourse, accuracy_targets, mean_course, reached
from cwmp.comparison.document import ComparisonReport, load_comparison
from cwmp.comparison.findings import FinishedRun, different_samples, found_entries, paired_tests
from cwmp.comparison.plan import PlannedRun, Variant, contender, planned_runs
from cwmp.comparison.runner import Progress
from cwmp.comparison.study_file import load_study, variants_of
from cwmp.comparison.verdict import verdict
from cwmp.config import RuleName, training_config
from cwmp.training.datasets import Dataset, load_dataset
from cwmp.training.run import train
from cwmp.training.run_files import CHECKPOINT, SUMMARY, read_summary
from profiler.device import Device
from profiler.devices import open_device

ROOT = Path(__file__).resolve().parents[2]
MODEL = known_cost_model(relative_u=0.02)
BASE = training_config(dataset="synthetic", clients=2, rounds=2, local_epochs=1, selector="dense")
RULES = ("cwmp", "topk", "dense")
TABLES = ("comparison.csv", "comparison.parquet", "runs.csv", "runs.parquet", COMPARISON)


def simulated(model: CostModel) -> Device | None:
    return open_device("sim:server-cpu")


def run(out: Path, **options: Any) -> ComparisonReport:
    given: dict[str, Any] = {
        "rules": RULES,
        "budgets": (0.1,),
        "seeds": (0, 1, 2),
        "open_device": simulated,
    }
    return compare(BASE, MODEL, out, **{**given, **options})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("comparisons") / "all"
    run(out)
    return out


def test_every_rule_budget_and_seed_is_a_run(folder: Path) -> None:
    names = {path.name for path in (folder / RUNS).iterdir()}
    assert names == {f"{rule}-s{seed}" for rule in ("cwmp-b0.1", "topk-b0.1", "dense") for seed in (0, 1, 2)}
    report = load_comparison(folder / COMPARISON)
    assert [(entry.rule, entry.budget) for entry in report.entries] == [
        ("dense", None),
        ("cwmp", 0.1),
        ("topk", 0.1),
    ]
    for entry in report.entries:
        summaries = [read_summary(folder / RUNS / name / SUMMARY) for name in entry.runs]
        assert entry.tail_accuracies == tuple(summary.tail_accuracy for summary in summaries)
        assert entry.measured_provenance == "simulated"
        if entry.rule != "dense":
            spent = sum(summary.boundary_j for summary in summaries)
            assert entry.spent_fraction == pytest.approx(spent / sum(s.granted_j or 0 for s in summaries))
    assert report.verdict[-1].startswith("Keeping everything reaches")


def test_the_tables_are_tidy_and_the_same_in_both_formats(folder: Path) -> None:
    rounds, runs = (pd.read_csv(folder / f"{name}.csv") for name in ("comparison", "runs"))
    for name, frame in (("comparison", rounds), ("runs", runs)):
        parquet = pd.read_parquet(folder / f"{name}.parquet")
        assert list(parquet.columns) == list(frame.columns)
        filled = [table.dropna(axis="columns", how="all") for table in (parquet, frame)]
        pd.testing.assert_frame_equal(*filled, check_dtype=False)
    assert len(runs) == 9
    assert list(rounds.groupby("run").size()) == [BASE.rounds] * 9
    assert "seconds" not in rounds.columns
    # Rows of rounds add up to those of runs; the boundary is the update: select, pack and apply.
    spent_j = rounds.groupby("run")["boundary_j"].sum()
    assert spent_j.to_dict() == pytest.approx(runs.set_index("run")["boundary_j"].to_dict())
    inside = ["select_predicted_j", "pack_predicted_j", "apply_predicted_j"]
    assert rounds[inside].sum(axis=1).tolist() == pytest.approx(rounds["boundary_j"].tolist())
    assert runs[runs["rule"] == "dense"]["budget"].isna().all()
    assert set(rounds["select_provenance"]) == {"simulated"}


def command(out: Path, model: Path) -> list[str]:
    options = ["--rules", ",".join(RULES), "--budget-fractions", "0.1", "--seeds", "0,1,2", "--jobs", "2"]
    settings = [
        f"--set={key}={getattr(BASE, key)}" for key in ("dataset", "clients", "rounds", "local_epochs")
    ]
    start = [sys.executable, "-m", "cwmp", "compare", "--cost-model", str(model), "--out", str(out)]
    return [*start, *options, *settings]


def test_killed_in_several_processes_and_resumed_in_one_it_is_the_same_to_the_bit(
    folder: Path, tmp_path: Path
) -> None:
    out, model = tmp_path / "killed", tmp_path / "model.json"
    save_cost_model(model, MODEL)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command(out, model), env=environment, cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(out.glob(f"{RUNS}/*/{CHECKPOINT}"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(list(out.glob(f"{RUNS}/*/{CHECKPOINT}"))) >= 4
    assert not (out / COMPARISON).exists()
    run(out, resume=True)
    for name in TABLES:
        assert (out / name).read_bytes() == (folder / name).read_bytes(), name
    for checkpoint in folder.glob(f"{RUNS}/*/{CHECKPOINT}"):
        other = out / RUNS / checkpoint.parent.name / CHECKPOINT
        assert other.read_bytes() == checkpoint.read_bytes()


def test_a_comparison_goes_on_where_it_stopped(tmp_path: Path) -> None:
    class KilledError(BaseException):
        pass

    def kill(progress: Progress) -> None:
        if progress.ended_runs == 2:
            raise KilledError

    out = tmp_path / "all"
    with pytest.raises(KilledError):
        run(out, seeds=(0,), on_progress=kill)
    assert not (out / COMPARISON).exists()
    with pytest.raises(UsageError, match="exists already"):
        run(out, seeds=(0,))
    seen: list[Progress] = []
    run(out, seeds=(0,), resume=True, on_progress=seen.append)
    assert [(item.done_rounds, item.left_rounds, item.ended_runs) for item in seen] == [
        (1, 1, 2),
        (2, 0, 2),
        (2, 0, 3),
    ]
    assert seen[0].left_s is not None
    assert seen[0].left_s > 0
    with pytest.raises(UsageError, match="was begun with another cost model"):
        compare(
            BASE,
            known_cost_model(relative_u=0.03),
            out,
            rules=RULES,
            budgets=(0.1,),
            resume=True,
            open_device=simulated,
        )
    with pytest.raises(UsageError, match=r"was begun with rounds = 2, not 3"):
        compare(
            BASE.model_copy(update={"rounds": 3}),
            MODEL,
            out,
            rules=RULES,
            budgets=(0.1,),
            resume=True,
            open_device=simulated,
        )


def test_a_run_that_fails_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    variants = [
        Variant(name="calm", cost_model=MODEL),
        Variant(name="wild", cost_model=MODEL, settings={"learning_rate": 1e30}),
    ]
    report = compare(BASE, variants, tmp_path / "out", rules=("cwmp", "topk"), budgets=(0.1,))
    assert {failure.run for failure in report.failures} == {
        "wild--cwmp-b0.1-s0",
        "wild--topk-b0.1-s0",
    }
    assert all("finite" in failure.reason for failure in report.failures)
    assert [variant.name for variant in report.variants] == ["calm"]
    runs = pd.read_csv(tmp_path / "out" / "runs.csv")
    assert runs["failure"].notna().sum() == 2
    assert set(runs["learning_rate"]) == {BASE.learning_rate, 1e30}
    assert "did not finish: wild--cwmp-b0.1-s0 and 1 more." in report.verdict[-1]


def test_samples_of_one_seed_are_read_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And give the bits of runs that read their own."""
    read: list[int] = []

    def counted(name: str, seed: int, **options: Any) -> Dataset:
        read.append(seed)
        return load_dataset(name, seed, **options)

    monkeypatch.setattr("cwmp.training.federation.load_dataset", counted)
    run(tmp_path / "all")
    assert read == [0, 1, 2]
    monkeypatch.undo()
    for plan in plans(rules=("cwmp",), budgets=(0.1,), seeds=(2,)):
        train(plan.config, MODEL, tmp_path / "alone", device=simulated(MODEL))
        alone, among = (tmp_path / "alone" / CHECKPOINT, tmp_path / "all" / RUNS / plan.name / CHECKPOINT)
        assert alone.read_bytes() == among.read_bytes()


def test_runs_that_saw_other_samples_are_said(folder: Path) -> None:
    runs = runs_of(folder, cwmp=(0.9, 0.8), topk=(0.8, 0.7))
    assert not list(different_samples(runs))
    identity = runs[0].report.identity.model_copy(update={"samples_sha256": "other"})
    runs[0] = replace(runs[0], report=runs[0].report.model_copy(update={"identity": identity}))
    (sentence,) = different_samples(runs)
    assert sentence.startswith("Runs of seed 0 did not see the same samples (cwmp-b0.1-s0 and topk-b0.1-s0")
    digests = pd.read_csv(folder / "runs.csv").groupby("seed")["samples_sha256"].unique()
    assert [list(found) for found in digests] == [
        [load_dataset("synthetic", seed).sha256] for seed in range(3)
    ]


def test_the_engine_of_a_comparison_is_in_its_record_and_stays(tmp_path: Path) -> None:
    run(tmp_path, seeds=(0,), open_device=no_device, engine="local-batched")
    runs = pd.read_csv(tmp_path / "runs.csv")
    assert set(runs["engine"]) == {"local-batched"}
    with pytest.raises(UsageError, match="was begun with engine = 'local-batched', not 'local'"):
        run(tmp_path, seeds=(0,), open_device=no_device, resume=True)


def test_a_comparison_of_which_no_run_finishes_is_an_error(tmp_path: Path) -> None:
    wild = BASE.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(UsageError, match="No run of the comparison finished"):
        compare(wild, MODEL, tmp_path / "out", rules=("topk",), budgets=(0.1,))


def test_two_comparisons_never_share_a_folder(tmp_path: Path) -> None:
    def again(progress: Progress) -> None:
        with pytest.raises(UsageError, match="Another comparison is running"):
            run(tmp_path, resume=True)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, seeds=(0,), on_progress=again)
    assert run(tmp_path, seeds=(0,), resume=True).entries


class _MeasuredDevice:
    name = "cpu"
    provenance = "measured"


def test_sensors_are_not_shared_by_jobs(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="measured one at a time"):
        run(tmp_path / "out", jobs=2, open_device=lambda model: _MeasuredDevice())


def plans(**changes: Any) -> list[PlannedRun]:
    options: dict[str, Any] = {
        "contenders": [contender(name) for name in changes.pop("rules", RULES)],
        "budgets": (0.1, 0.2),
        "budget_unit": "fraction",
        "seeds": (0,),
    }
    variants = changes.pop("variants", [Variant(cost_model=MODEL)])
    return planned_runs(BASE, variants, **{**options, **changes})


def test_dense_runs_once_per_seed() -> None:
    assert [plan.name for plan in plans()] == [
        "dense-s0",
        "cwmp-b0.1-s0",
        "topk-b0.1-s0",
        "cwmp-b0.2-s0",
        "topk-b0.2-s0",
    ]
    assert [plan.config.budget_j for plan in plans(budget_unit="J")] == [None, 0.1, 0.1, 0.2, 0.2]


def test_equal_prices_are_a_contender_of_their_own() -> None:
    found = plans(rules=("cwmp", "cwmp:equal-prices"), budgets=(0.1,))
    assert [(plan.name, plan.config.equal_prices) for plan in found] == [
        ("cwmp-b0.1-s0", False),
        ("cwmp-equal-prices-b0.1-s0", True),
    ]
    assert found[1].contender.label == "cwmp (equal prices)"


def variants(*names: str, **settings: Any) -> list[Variant]:
    return [Variant(name=name, cost_model=MODEL, settings=settings) for name in names]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"rules": ()}, "at least one rule"),
        ({"budgets": ()}, "at least one rule, one budget"),
        ({"seeds": ()}, "at least one rule"),
        ({"seeds": (1, 1)}, "name something twice"),
        ({"budgets": (0.1, 0.1)}, "name something twice"),
        ({"budgets": (0.1, 0.1000000001)}, "the same folder"),
        ({"budgets": (1.5,)}, "budget_fraction"),
        ({"variants": variants("a", "a")}, "name something twice"),
        ({"variants": variants("a b", "a-b")}, "the same folder"),
        ({"variants": variants("a", seed=3)}, "cannot set seed"),
        ({"variants": variants("a", boundary="update+uplink")}, "needs a link"),
    ],
)
def test_a_senseless_comparison_is_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        plans(**changes)


@pytest.mark.parametrize("name", ["best", "threshold", "cwmp:dear", ""])
def test_a_rule_that_cannot_take_part_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"There is no rule '{name}' to compare"):
        contender(name)


# the file of a study


def test_a_list_in_a_variant_stands_for_one_variant_per_value(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(
        'rules = ["cwmp"]\nbudget_fractions = [0.1]\n[settings]\nrounds = 3\n'
        '[[variant]]\nname = "update"\nerror_feedback = [false, true]\n'
        'cost_model = ["a/cpu.json", "published:b"]\n'
        '[[variant]]\nname = "radio"\nboundary = "update+uplink"\nlink = "wifi-2012"\n'
        "assume = { launch = 2e-6 }\n"
    )
    study = load_study(path)
    asked: dict[str, dict[str, float]] = {}

    def load(name: str, assumed: Mapping[str, float]) -> CostModel:
        assert name not in asked
        asked[name] = dict(assumed)
        return MODEL

    found = variants_of(study.variant, load, cost_model=["other.json"], fleet=[])
    assert [variant.name for variant in found] == [
        "update, no error feedback, cpu",
        "update, no error feedback, b",
        "update, error feedback, cpu",
        "update, error feedback, b",
        "radio",
    ]
    assert found[3].settings == {"error_feedback": True}
    assert found[4].settings == {"boundary": "update+uplink", "link": "wifi-2012"}
    beside = str(tmp_path / "a" / "cpu.json")
    assert asked == {beside: {}, "published:b": {}, "other.json": {"launch": 2e-6}}
    assert study.settings == {"rounds": 3}


def test_options_make_variants_where_no_file_does() -> None:
    found = variants_of((), lambda name, assumed: MODEL, cost_model=["a.json", "b.json"], fleet=["f.toml"])
    assert [(variant.name, variant.settings) for variant in found] == [
        ("a", {"fleet": "f.toml"}),
        ("b", {"fleet": "f.toml"}),
    ]


def test_a_variant_without_a_name_or_a_cost_model_is_refused() -> None:
    with pytest.raises(UsageError, match="needs a name"):
        variants_of(({"link": "wifi-2012"},), lambda name, assumed: MODEL)
    with pytest.raises(UsageError, match="'a' has no cost model"):
        variants_of(({"name": "a"},), lambda name, assumed: MODEL)


@pytest.mark.parametrize("text", ["rules = [", "rulez = []", "seeds = ['a']", "variant = 3"])
def test_a_broken_study_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "study.toml").write_text(text)
    with pytest.raises(InvalidFileError):
        load_study(tmp_path / "study.toml")


# the verdict, on invented accuracies


def finished(folder: Path, rule: RuleName, seed: int, accuracy: float, joules: float) -> FinishedRun:
    template = read_summary(folder / RUNS / "cwmp-b0.1-s0" / SUMMARY)
    budgets = () if rule == "dense" else (0.1,)
    (plan,) = plans(rules=(rule,), budgets=budgets, seeds=(seed,))
    course = RunCourse(
        rounds=(1,),
        boundary_j=(joules,),
        accuracy=(accuracy,),
        retained=(1.0,),
        gain=(0.1,),
        density={"w": 0.5},
    )
    report = template.model_copy(update={"tail_accuracy": accuracy, "boundary_j": joules})
    return FinishedRun(plan=plan, report=report, course=course)


def runs_of(folder: Path, **accuracies: tuple[float, ...]) -> list[FinishedRun]:
    return [
        finished(folder, rule, seed, accuracy, 2.0 if rule == "dense" else 1.0)  # type: ignore[arg-type]
        for rule, values in accuracies.items()
        for seed, accuracy in enumerate(values)
    ]


def sentences(runs: list[FinishedRun]) -> list[str]:
    entries = found_entries(runs)
    return list(verdict(entries, paired_tests(entries), (), "fraction"))


@pytest.mark.parametrize(
    ("cwmp", "topk", "word"),
    [
        ((0.90,), (0.85,), "not told from chance at fixed + 10 % (+5.0 points)"),
        ((0.90, 0.91), (0.85, 0.86), "not told from chance at"),
        ((0.90, 0.91, 0.92), (0.85, 0.861, 0.87), "ahead of it at fixed + 10 % (+5.0 ± "),
        ((0.85, 0.86, 0.87), (0.90, 0.911, 0.92), "behind it at fixed + 10 % (-5.0 ± "),
        # on average 3 points better, but by chance: the seeds disagree
        ((0.95, 0.80, 0.90), (0.80, 0.90, 0.86), "a tie at fixed + 10 %"),
        ((0.85, 0.86, 0.87), (0.85, 0.86, 0.87), "equal in every seed at fixed + 10 %."),
    ],
)
def test_the_verdict_knows_wins_losses_and_ties(
    folder: Path, cwmp: tuple[float, ...], topk: tuple[float, ...], word: str
) -> None:
    said = sentences(runs_of(folder, cwmp=cwmp, topk=topk))
    assert f"cwmp against topk at the same joules: {word}" in said[0]
    assert any("fewer than 3 seeds" in sentence for sentence in said) == (len(cwmp) < 3)


@pytest.mark.parametrize(
    ("predicted", "topk", "words"),
    [
        (0.001, 0.85, "topk was said to be as good, and the accuracy disagrees"),
        (0.001, 0.90, "topk was said to be as good, and the accuracy agrees"),
        (0.05, 0.85, "prices were said to be worth it, and the accuracy agrees"),
        (0.05, 0.95, "prices were said to be worth it, and the accuracy disagrees"),
        (0.05, 0.90, "more was kept, and the accuracy is no different"),
    ],
)
def test_the_forecast_is_held_against_the_outcome(
    folder: Path, predicted: float, topk: float, words: str
) -> None:
    noise = (0.0, 0.001, 0.002)
    runs = runs_of(folder, cwmp=(0.90, 0.902, 0.901), topk=tuple(topk + part for part in noise))
    runs = [
        FinishedRun(
            plan=run.plan,
            report=run.report.model_copy(update={"predicted_gain": predicted}),
            course=run.course,
        )
        for run in runs
    ]
    assert any(sentence.endswith(f"{words}.") for sentence in sentences(runs))


def test_seeds_that_one_of_both_lacks_are_not_paired(folder: Path) -> None:
    runs = runs_of(folder, cwmp=(0.9, 0.8, 0.7, 0.6), topk=(0.5, 0.4, 0.3, 0.2))
    kept = [run for run in runs if (run.plan.contender.rule, run.plan.config.seed) != ("topk", 1)]
    (test,) = paired_tests(found_entries(kept))
    assert test.difference.seeds == 3
    assert test.difference.mean == pytest.approx(0.4)


def test_with_equal_prices_every_rule_is_topk_and_the_verdict_says_so(tmp_path: Path) -> None:
    rules = ("cwmp:equal-prices", "cwmp-l1:equal-prices", "topk")
    report = run(tmp_path / "out", rules=rules, seeds=(0, 1))
    ablation, l1, topk = report.entries
    assert ablation.course == l1.course == topk.course
    assert ablation.density == l1.density == topk.density
    assert report.verdict == (
        "cwmp (equal prices) coincides with topk at every budget and seed.",
        "cwmp-l1 (equal prices) coincides with topk at every budget and seed.",
    )
    other = topk.model_copy(update={"boundary_j": 2 * topk.boundary_j})
    assert "differs from topk at fixed + 10 %" in next(verdict((ablation, other), (), (), "fraction"))


def test_every_rule_that_sees_prices_is_tested_and_corrected_with_the_others(folder: Path) -> None:
    """Each against what sees none, then against the rules before it; what is no other rule is no rival."""
    runs = runs_of(
        folder,
        dense=(0.99, 0.98, 0.97),
        topk=(0.80, 0.81, 0.83),
        randomk=(0.30, 0.33, 0.31),
        **{"cwmp-block": (0.86, 0.88, 0.87), "cwmp": (0.80, 0.82, 0.82)},
    )
    tests = paired_tests(found_entries(runs))
    assert [(test.rule, test.rival) for test in tests] == [
        ("cwmp", "topk"),
        ("cwmp", "randomk"),
        ("cwmp-block", "topk"),
        ("cwmp-block", "randomk"),
        ("cwmp-block", "cwmp"),
    ]
    p_values = [test.difference.p_value for test in tests]
    order = sorted(range(5), key=lambda at: p_values[at])
    # Holm by hand: the smallest times five, the next times four, …, never less than the one before.
    expected, largest = [0.0] * 5, 0.0
    for rank, at in enumerate(order):
        largest = max(largest, min(1.0, (5 - rank) * p_values[at]))
        expected[at] = largest
    assert [test.difference.p_holm for test in tests] == pytest.approx(expected)


def test_a_win_that_the_correction_takes_away_is_said(folder: Path) -> None:
    """Holm doubles the smaller of two p-values."""
    runs = runs_of(folder, topk=(0.80, 0.81, 0.82), randomk=(0.70, 0.90, 0.80), cwmp=(0.81, 0.825, 0.84))
    against_topk = paired_tests(found_entries(runs))[0].difference
    assert against_topk.p_value is not None
    assert against_topk.p_value < 0.05
    assert against_topk.p_holm == pytest.approx(2 * against_topk.p_value)
    assert "ahead of it, but not after the correction, at fixed + 10 %" in sentences(runs)[0]


def test_the_front_is_what_nothing_beats_in_accuracy_and_joules(folder: Path) -> None:
    entries = found_entries(runs_of(folder, cwmp=(0.9,), topk=(0.8,), dense=(0.95,)))
    assert {entry.rule: entry.pareto for entry in entries} == {"cwmp": True, "topk": False, "dense": True}
    assert all(entry.accuracy.half_width is None for entry in entries)


# courses


def course(*accuracies: float | None) -> RunCourse:
    rounds = tuple(range(1, len(accuracies) + 1))
    return RunCourse(
        rounds=rounds,
        boundary_j=tuple(10.0 * number for number in rounds),
        accuracy=accuracies,
        retained=tuple(0.5 for _ in rounds),
        gain=tuple(0.1 for _ in rounds),
        density={},
    )


def test_an_accuracy_is_reached_in_the_first_tested_round_that_has_it() -> None:
    first, second = course(0.2, None, 0.6, 0.4), course(0.5, None, 0.4, 0.7)
    at = reached([first, second], (0.5, 0.65))
    assert (at[0].seeds, at[0].boundary_j and at[0].boundary_j.mean) == (2, 20.0)
    # one seed never gets there: how many did, and no number
    assert (at[1].seeds, at[1].boundary_j) == (1, None)


def test_targets_end_where_the_best_rule_arrives_in_every_seed() -> None:
    weak, strong = [course(0.1, 0.2)] * 2, [course(0.3, 0.61), course(0.3, 0.9)]
    assert accuracy_targets([weak, strong]) == pytest.approx((0.35, 0.4, 0.45, 0.5, 0.55, 0.6))
    assert accuracy_targets([[course(None)]]) == ()


def test_rounds_without_a_test_have_no_accuracy() -> None:
    mean = mean_course([course(None, 0.4), course(None, 0.6)])
    assert mean.accuracy[0] is None
    assert mean.accuracy[1] is not None
    assert mean.accuracy[1].mean == pytest.approx(0.5)


# the file


@pytest.mark.parametrize("text", ["", "[", "[]", '{"schema_version": 1}', '{"schema_version": 9}', "{}"])
def test_a_broken_comparison_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / COMPARISON).write_text(text)
    with pytest.raises(InvalidFileError):
        load_comparison(tmp_path / COMPARISON)


def test_the_file_says_what_was_returned(folder: Path) -> None:
    assert json.loads((folder / COMPARISON).read_text())["schema_version"] == 3
    assert run(folder, resume=True) == load_comparison(folder / COMPARISON)
