"""How well a campaign and its fit recover the true costs of devices that they have never seen.

Draws simulated devices with coefficients inside the published ranges, profiles each as a user would, fits,
and compares with the truth that the fit never saw, in turn of these kinds:

    rapl        a package, 1 ms tick, 61 µJ quantum, a counter that wraps during the campaign
    rapl-dram   the same with a DRAM domain
    no-awake    the same as rapl without an awake power
    drift       the same as rapl, and all readings drift by 2 % in each hour
    gpu         a board, 100 ms tick of which the sensor sees 25 ms

    python benchmarks/recovery.py --devices 25 --plan full --noise 0.02
"""

from __future__ import annotations

import argparse
import math
import random
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from calibration_data.families import NEVER_FITTED_FAMILIES
from calibration_data.records import CalibrationRecord
from calibration_data.store import records_sha256
from cost_models.cost_model import CostModel
from cost_models.fitting import fit_cost_model
from profiler.campaign import run_campaign
from profiler.plan import PlanName, make_plan
from profiler.simulated_device import SimulatedDevice
from profiler.simulated_spec import SimulatedDeviceSpec

SUBSTANTIAL = 0.10
"""A coefficient counts in the error if it carries this share of the power in its own microbenchmark."""

KINDS = ("rapl", "rapl-dram", "no-awake", "drift", "gpu")

RANGES = {
    "idle_w": (5, 100),
    "awake_w": (3, 30),
    "core_w": (0.5, 5),
    "flop_fp64": (10e-12, 150e-12),
    "flop_fp32": (5e-12, 80e-12),
    "byte_l1": (1e-12, 20e-12),
    "byte_l2": (5e-12, 60e-12),
    "byte_llc": (10e-12, 150e-12),
    "byte_dram_read": (100e-12, 500e-12),
    "byte_dram_write": (100e-12, 500e-12),
    "line_random_dram": (5e-9, 140e-9),
    "launch": (1e-6, 50e-6),
}
RATES_PER_CORE = {
    "flop_fp64": 30e9,
    "flop_fp32": 60e9,
    "byte_l1": 200e9,
    "byte_l2": 70e9,
    "byte_llc": 25e9,
    "byte_dram_read": 6e9,
    "byte_dram_write": 4e9,
    "line_random_dram": 4e7,
    "launch": 2e5,
}
GPU_RANGES = {
    "idle_w": (9, 88),
    "awake_w": (10, 60),
    "core_w": (0.1, 0.8),
    "flop_fp64": (11.5e-12, 28.5e-12),
    "flop_fp32": (2.7e-12, 20.5e-12),
    "flop_fp16": (0.46e-12, 2.14e-12),
    "byte_l1": (6.8e-12, 46.8e-12),
    "byte_l2": (11.1e-12, 124e-12),
    "byte_dram_read": (93e-12, 244e-12),
    "byte_dram_write": (93e-12, 244e-12),
    "line_random_dram": (2e-9, 20e-9),
    "launch": (0.15e-3, 0.3e-3),
}
GPU_RATES = {
    "flop_fp64": 9e12,
    "flop_fp32": 18e12,
    "flop_fp16": 260e12,
    "byte_l1": 18e12,
    "byte_l2": 4.5e12,
    "byte_dram_read": 1.35e12,
    "byte_dram_write": 1.2e12,
    "line_random_dram": 1.6e10,
    "launch": 4e5,
}


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """One coefficient of one device: truth, what was fitted, and how much of the power it carries."""

    device: int
    term: str
    truth: float
    status: str
    value: float | None
    ci95: tuple[float, float] | None
    share: float

    @property
    def relative_error(self) -> float | None:
        return None if self.value is None else self.value / self.truth - 1

    @property
    def covered(self) -> bool | None:
        return None if self.ci95 is None else self.ci95[0] <= self.truth <= self.ci95[1]


def draw_device(seed: int, kind: str = "rapl", *, noise_rel: float = 0.02) -> dict[str, Any]:
    """A device file of some kind with coefficients drawn log-uniformly from the published ranges."""
    rng = random.Random(f"recovery/{seed}")
    gpu = kind == "gpu"
    truth = {
        term: math.exp(rng.uniform(math.log(low), math.log(high)))
        for term, (low, high) in (GPU_RANGES if gpu else RANGES).items()
    }
    cores = rng.choice([40, 84, 108, 132] if gpu else [4, 8, 16, 32])
    if kind == "no-awake":
        del truth["awake_w"]
    if kind == "rapl-dram":
        truth["dram_idle_w"] = rng.uniform(1, 10)
    return {
        "schema": "calijoule/simulated-device",
        "schema_version": 1,
        "name": f"drawn-{kind}-{seed}",
        "truth": truth,
        "rates": GPU_RATES if gpu else {term: rate * cores for term, rate in RATES_PER_CORE.items()},
        "memory": {
            "l1_bytes": 196_608 if gpu else 32_768,
            "l2_bytes": 40 << 20 if gpu else 1 << 20,
            "llc_bytes": None if gpu else 1 << 25,
            "line_bytes": 32 if gpu else 64,
            "cores": cores,
        },
        "sensor": {
            "domains": ["gpu-0"] if gpu else ["package-0", *(["dram-0"] if kind == "rapl-dram" else [])],
            "update_period_s": 0.1 if gpu else 0.001,
            "quantum_j": 0.001 if gpu else 6.1e-5,
            "range_j": None if gpu else rng.choice([2000.0, 10_000.0, 65_536.0]),
            "noise_rel": noise_rel,
            "averaging_window_s": 0.025 if gpu else None,
            "drift_rel_per_h": rng.choice([-0.02, 0.02]) if kind == "drift" else 0.0,
        },
    }


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One device: its costs and how well its model predicts."""

    kind: str
    minutes: float
    condition: float
    held_out: dict[str, float | None]
    mape_held_out: float
    coverage_held_out: float
    costs: list[Recovered]


def recover(seed: int, kind: str, plan_name: PlanName, *, noise_rel: float) -> Outcome:
    """Profile and fit one drawn device."""
    spec = SimulatedDeviceSpec.model_validate(draw_device(seed, kind, noise_rel=noise_rel))
    device = SimulatedDevice(spec, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "records.jsonl"
        records = run_campaign(device, make_plan(device, plan_name, seed=seed), out)
        model = fit_cost_model(records, records_sha256=records_sha256([out]), seed=seed)
    found = model.document.diagnostics
    return Outcome(
        kind=kind,
        minutes=device.clock.now_s / 60,
        condition=found.scaled_condition_number or math.inf,
        held_out={family: judged.mape for family, judged in found.held_out.items()},
        mape_held_out=found.mape_held_out or math.nan,
        coverage_held_out=found.coverage95_held_out or math.nan,
        costs=list(_recovered(seed, spec, records, model)),
    )


def _recovered(
    seed: int, spec: SimulatedDeviceSpec, records: Sequence[CalibrationRecord], model: CostModel
) -> Iterator[Recovered]:
    shares = power_shares(records, spec.truth)
    for term, true_value in spec.truth.items():
        fitted = model.coefficients[term]
        yield Recovered(
            device=seed,
            term=term,
            truth=true_value,
            status=fitted.status,
            value=fitted.value,
            ci95=fitted.ci95,
            share=shares[term],
        )


def power_shares(records: Sequence[CalibrationRecord], truth: dict[str, float]) -> dict[str, float]:
    """Largest share of the power that each term carries in any microbenchmark, by the truth."""
    shares: dict[str, float] = defaultdict(float)
    for record in records:
        if record.family in NEVER_FITTED_FAMILIES:
            continue
        work = record.window_work(record.replicates[0])
        joules = {term: truth.get(term, 0.0) * amount for term, amount in work.items()}
        for term, value in joules.items():
            shares[term] = max(shares[term], value / sum(joules.values()))
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="seed of the first device")
    parser.add_argument("--plan", choices=["quick", "full"], default="quick")
    parser.add_argument("--noise", type=float, default=0.02)
    parser.add_argument("--kind", choices=[*KINDS, "all"], default="all")
    options = parser.parse_args()
    kinds = KINDS if options.kind == "all" else (options.kind,)
    outcomes = []
    for seed in range(options.first, options.first + options.devices):
        outcomes.append(recover(seed, kinds[seed % len(kinds)], options.plan, noise_rel=options.noise))
        print_device(seed, outcomes[-1])
    found = [cost for outcome in outcomes for cost in outcome.costs]
    by_term: dict[str, list[Recovered]] = defaultdict(list)
    for item in found:
        by_term[item.term].append(item)
    print(
        f"{'term':18s} {'identified':>11s} {'median |err|':>13s} {'worst':>7s} {'coverage':>9s} {'share':>6s}"
    )
    for term, items in by_term.items():
        print(f"{term:18s} {row(items)} {median(item.share for item in items):6.2f}")
    substantial = [item for item in found if item.share >= SUBSTANTIAL]
    print(f"{'>= 10 % of power':18s} {row(substantial)}")
    print(f"{'all':18s} {row(found)}")
    for kind in kinds:
        costs = [cost for outcome in outcomes if outcome.kind == kind for cost in outcome.costs]
        if costs:
            print(f"{kind:18s} {row(costs)}")
    families = sorted({family for outcome in outcomes for family in outcome.held_out})
    for family in families:
        found_errors = [outcome.held_out.get(family) for outcome in outcomes]
        errors = [error for error in found_errors if error is not None]
        print(f"never fitted, {family:14s} median MAPE {median(errors):.2%}, worst {max(errors):.2%}")
    print(
        f"never fitted, all: median MAPE {median(o.mape_held_out for o in outcomes):.2%}, worst "
        f"{max(o.mape_held_out for o in outcomes):.2%}; inside their 95 % interval "
        f"{fmean(o.coverage_held_out for o in outcomes):.1%}"
    )
    print(f"largest scaled condition number {max(outcome.condition for outcome in outcomes):.1f}")


def print_device(seed: int, outcome: Outcome) -> None:
    print(
        f"device {seed} ({outcome.kind}): {outcome.minutes:.0f} virtual minutes, condition number "
        f"{outcome.condition:.1f}, never fitted {outcome.mape_held_out:.2%}",
        flush=True,
    )
    for cost in outcome.costs:
        error = cost.relative_error
        if cost.share >= SUBSTANTIAL and (error is None or abs(error) > 0.04):
            print(f"  {cost.term}: {cost.status}, error {error}, share {cost.share:.2f}, {cost.ci95}")


def row(items: list[Recovered]) -> str:
    errors = [abs(item.relative_error) for item in items if item.relative_error is not None]
    covered = [item.covered for item in items if item.status == "identified"]
    rates = f"{median(errors):13.3%} {max(errors):7.1%}" if errors else f"{'-':>13s} {'-':>7s}"
    coverage = f"{sum(map(bool, covered)) / len(covered):9.1%}" if covered else f"{'-':>9s}"
    return f"{len(covered):5d}/{len(items):<5d} {rates} {coverage}"


if __name__ == "__main__":
    main()
