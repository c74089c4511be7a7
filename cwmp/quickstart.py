"""The whole journey in one folder: profile, fit, export, compare, report.

    DIR/records.jsonl    DIR/model.json    DIR/costs.json    DIR/comparison/    DIR/report.html

Real sensors if there are any, else a simulated device, and whoever reads the result is told which. The same
folder given again goes on where it was stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from calibration_data import NoUsableSensorError
from calibration_data.families import NEVER_FITTED_FAMILIES
from calibration_data.store import records_sha256
from cost_models import CostModel, MissingCoefficientError, fit_cost_model, load_cost_model, save_cost_model
from cwmp.comparison.compare import compare
from cwmp.config import RuleName, training_config
from cwmp.cost_document import costs_document, save_costs
from cwmp.cost_vector import cost_vector
from cwmp.networks import load_network
from cwmp.report import write_report
from profiler.campaign import run_campaign
from profiler.device import Device
from profiler.devices import open_device
from profiler.plan import make_plan

SIMULATED_DEVICE = "sim:server-cpu"
NETWORK = "mlp"
DENSITY = 0.05
RULES: tuple[RuleName, ...] = ("cwmp", "topk", "randomk", "dense")
BUDGET_FRACTIONS = (0.05, 0.2)
ROUNDS = 15
"""Enough for the digits to be learnt, few enough for a first look."""


class Screen(Protocol):
    """Where the journey tells how far it is."""

    def say(self, text: str) -> None:
        """One line."""
        ...

    def bar(self, name: str) -> AbstractContextManager[Callable[[int, int, str], None]]:
        """A bar: ``advance(done, total, what)``."""
        ...


@dataclass(frozen=True, kw_only=True)
class Journey:
    """What a quickstart leaves behind.

    Attributes:
        device: that was profiled.
        provenance: ``measured`` or ``simulated``.
        page: the report.
        verdict: of the comparison, in words; or why there is none.
    """

    device: str
    provenance: str
    page: Path
    verdict: tuple[str, ...]


def quickstart(out: Path, *, powercap_root: Path, screen: Screen) -> Journey:
    """Take a device from nothing to calibrated training.

    Args:
        out: folder of everything that comes out.
        powercap_root: root of the RAPL tree.
        screen: where progress goes.

    Raises:
        UsageError: the folder holds something else.
        MeasurementError: the sensors cannot be trusted.
    """
    device = _device(powercap_root, screen)
    try:
        model = _calibrate(device, out, screen)
        verdict = _spend(model, device, out, screen)
    finally:
        device.close()
    return Journey(device=device.name, provenance=device.provenance, page=write_report(out), verdict=verdict)


def _device(powercap_root: Path, screen: Screen) -> Device:
    try:
        return open_device("cpu", powercap_root=powercap_root)
    except NoUsableSensorError as error:
        screen.say(error.message)
        screen.say(f"SIMULATED: taking {SIMULATED_DEVICE} instead. No joule that follows was measured.")
        return open_device(SIMULATED_DEVICE)


def _calibrate(device: Device, out: Path, screen: Screen) -> CostModel:
    records_path, model_path = out / "records.jsonl", out / "model.json"
    plan = make_plan(device, "quick")
    screen.say(f"1/4 Profile {device.name}: {len(plan.points)} microbenchmark configurations.")
    with screen.bar("profile") as advance:
        records = run_campaign(
            device,
            plan,
            records_path,
            resume=True,
            report=lambda progress: advance(progress.done, progress.total, progress.point),
        )
    digests = records_sha256([records_path])
    if model_path.exists() and list(load_cost_model(model_path).document.records_sha256) == digests:
        return load_cost_model(model_path)
    screen.say("2/4 Fit the cost of every operation.")
    with screen.bar("fit") as advance:
        steps: list[str] = []
        families = len({record.family for record in records} - set(NEVER_FITTED_FAMILIES))

        def report(step: str) -> None:
            advance(len(steps), families + 1, step)
            steps.append(step)

        model = fit_cost_model(records, records_sha256=digests, report=report)
    save_cost_model(model_path, model)
    return model


def _spend(model: CostModel, device: Device, out: Path, screen: Screen) -> tuple[str, ...]:
    screen.say("3/4 Export joules per gradient coordinate.")
    try:
        costs = cost_vector(load_network(NETWORK), model, boundary="update", density=DENSITY)
    except MissingCoefficientError as error:
        # The calibration stands on its own: its report says what was refused and why.
        screen.say(f"No training under a budget: {error}")
        return (f"There are no prices, and so no training under a budget: {error.message}",)
    save_costs(out / "costs.json", costs_document(costs, created=datetime.now(UTC)))
    screen.say("4/4 Train on digits by several rules at the same joules.")
    with screen.bar("train") as advance:
        comparison = compare(
            training_config(selector="dense", network=NETWORK, rounds=ROUNDS),
            model,
            out / "comparison",
            rules=RULES,
            budgets=BUDGET_FRACTIONS,
            open_device=lambda model: device,
            resume=True,
            on_progress=lambda progress: advance(
                progress.done_rounds, progress.done_rounds + progress.left_rounds, progress.run.name
            ),
        )
    return comparison.verdict
