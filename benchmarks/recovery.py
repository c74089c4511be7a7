"""How well a campaign and its fit recover the true costs of devices that they have never seen.

Draws simulated devices with coefficients inside the published ranges (1 % noise from run to run, 1 ms tick,
61 µJ quantum, counters that wrap during the campaign), profiles each as a user would, fits, and compares
with the truth that the fit never saw:

    python benchmarks/recovery.py --devices 10 --plan quick
"""

from __future__ import annotations

import argparse
import math
import random
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from calibration_data.records import CalibrationRecord
from calibration_data.store import records_sha256
from cost_models.fitting import fit_cost_model
from profiler.campaign import run_campaign
from profiler.plan import make_plan
from profiler.simulated_device import SimulatedDevice
from profiler.simulated_spec import SimulatedDeviceSpec

SUBSTANTIAL = 0.10
"""A coefficient counts in the error if it carries this share of the power in its own microbenchmark."""

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


def draw_device(seed: int, *, noise_rel: float = 0.01, dram_domain: bool | None = None) -> dict[str, Any]:
    """A device file with coefficients drawn log-uniformly from the published ranges."""
    rng = random.Random(f"recovery/{seed}")
    truth = {
        term: math.exp(rng.uniform(math.log(low), math.log(high))) for term, (low, high) in RANGES.items()
    }
    cores = rng.choice([4, 8, 16, 32])
    domains = ["package-0"]
    if rng.random() < 0.5 if dram_domain is None else dram_domain:
        domains.append("dram-0")
        truth["dram_idle_w"] = rng.uniform(1, 10)
    return {
        "schema": "calijoule/simulated-device",
        "schema_version": 1,
        "name": f"drawn-{seed}",
        "truth": truth,
        "rates": {term: rate * cores for term, rate in RATES_PER_CORE.items()},
        "memory": {
            "l1_bytes": 32768,
            "l2_bytes": 1 << 20,
            "llc_bytes": 1 << 25,
            "line_bytes": 64,
            "cores": cores,
        },
        "sensor": {
            "domains": domains,
            "update_period_s": 0.001,
            "quantum_j": 6.1e-5,
            "range_j": rng.choice([2000.0, 10_000.0, 65_536.0]),
            "noise_rel": noise_rel,
            "gain": 1.0,
        },
    }


def recover(seed: int, plan_name: str, **options: Any) -> Iterator[Recovered]:
    """Profile and fit one drawn device."""
    spec = SimulatedDeviceSpec.model_validate(draw_device(seed, **options))
    device = SimulatedDevice(spec, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "records.jsonl"
        records = run_campaign(device, make_plan(device, plan_name, seed=seed), out)  # type: ignore[arg-type]
        model = fit_cost_model(records, records_sha256=records_sha256([out]), seed=seed)
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


def power_shares(records: list[CalibrationRecord], truth: dict[str, float]) -> dict[str, float]:
    """Largest share of the power that each term carries in any microbenchmark, by the truth."""
    shares: dict[str, float] = defaultdict(float)
    for record in records:
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
    parser.add_argument("--noise", type=float, default=0.01)
    options = parser.parse_args()
    found: list[Recovered] = []
    for seed in range(options.first, options.first + options.devices):
        found += recover(seed, options.plan, noise_rel=options.noise)
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


def row(items: list[Recovered]) -> str:
    errors = [abs(item.relative_error) for item in items if item.relative_error is not None]
    covered = [item.covered for item in items if item.status == "identified"]
    rates = f"{median(errors):13.3%} {max(errors):7.1%}" if errors else f"{'-':>13s} {'-':>7s}"
    coverage = f"{sum(map(bool, covered)) / len(covered):9.1%}" if covered else f"{'-':>9s}"
    return f"{len(covered):5d}/{len(items):<5d} {rates} {coverage}"


if __name__ == "__main__":
    main()
