"""Distributed data parallel training on two processes, with and without the energy budget's hook.

    python benchmarks/ddp.py [--seeds N] [--fraction F]

The digits data set is shared between two processes that exchange gradients by gloo; each seed trains once
with DDP's own exchange and once with ``cwmp.ddp_hook`` for each rule, at a fraction of the joules of packing,
sending and applying the update. The table shows accuracy on the test samples over seeds, and predicted joules
relative to the dense exchange, without and with the scan of all gradients, which no rule can save.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cost_models import CostModel, fit_cost_model
from cwmp.budgeted_gradients import BudgetedGradients
from cwmp.config import RuleName
from cwmp.cost_vector import cost_vector
from cwmp.ddp_hook import SparseExchange, exchange
from cwmp.networks import build_network
from cwmp.training.datasets import load_dataset
from profiler.campaign import run_campaign
from profiler.devices import open_device
from profiler.plan import make_plan

PROCESSES = 2
EPOCHS = 15
BATCH = 32
LEARNING_RATE = 0.2
LINK = "ethernet-10g"
RULES: tuple[RuleName, ...] = ("cwmp", "topk", "randomk")
OWN = "DDP's own exchange"


def train(rank: int, seed: int, rule: RuleName | None, fraction: float, model: CostModel) -> dict[str, float]:
    """One run of this process's share; accuracy, and joules of what it sent if a rule chose."""
    data = load_dataset("digits", seed)
    inner = build_network("mlp", seed=seed)
    network = DistributedDataParallel(inner)
    costs = cost_vector(inner, model, boundary="update+uplink", density=fraction, link=LINK)
    gradients = BudgetedGradients(costs, budget_fraction=fraction, rule=rule or "cwmp", seed=seed)
    exchanged_j = 0.0
    if rule is not None:
        network.register_comm_hook(SparseExchange(inner, gradients), exchange)
    optimizer = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        order = torch.randperm(len(data.train_x), generator=generator)[rank::PROCESSES]
        whole = len(order) // BATCH * BATCH
        for indices in order[:whole].split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(data.train_x[indices]), data.train_y[indices]).backward()
            optimizer.step()
            exchanged_j += gradients.last.cost.marginal_j.value if gradients.last else 0.0
    with torch.no_grad():
        accuracy = float((inner(data.test_x).argmax(1) == data.test_y).double().mean())
    result = {"accuracy": accuracy}
    if rule is not None:
        dense_j = gradients.steps * gradients.budget.dense_j
        result["exchanged"] = exchanged_j / (dense_j - gradients.steps * gradients.budget.fixed_j)
        result["whole"] = gradients.ledger.charged_j / dense_j
    return result


def run_process(rank: int, folder: str, seeds: int, fraction: float, model: CostModel) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=PROCESSES
    )
    results = {
        rule or OWN: [train(rank, seed, rule, fraction, model) for seed in range(seeds)]
        for rule in (None, *RULES)
    }
    if rank == 0:
        torch.save(results, Path(folder, "results.pt"))
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--fraction", type=float, default=0.1, help="of the joules of the exchanged update")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        device = open_device("sim:server-cpu")
        records = run_campaign(device, make_plan(device, "quick"), Path(folder, "records.jsonl"))
        model = fit_cost_model(records)
        mp.spawn(run_process, (folder, options.seeds, options.fraction, model), nprocs=PROCESSES)
        results = torch.load(Path(folder, "results.pt"), weights_only=True)
    table = Table(
        "exchange", "accuracy", "sd over seeds", "difference, mean ± 95 %", "joules of the exchanged update",
        "with the scan",
        title=f"digits, {PROCESSES} processes, {options.seeds} seeds, simulated joules, {LINK}",
    )  # fmt: skip
    for name, runs in results.items():
        accuracies = [run["accuracy"] for run in runs]
        differences = [run["accuracy"] - own["accuracy"] for run, own in zip(runs, results[OWN], strict=True)]
        half = 1.96 * statistics.stdev(differences) / len(differences) ** 0.5
        table.add_row(
            name,
            f"{statistics.mean(accuracies):.2%}",
            f"{statistics.stdev(accuracies):.2%}",
            "" if name == OWN else f"{statistics.mean(differences):+.2%} ± {half:.2%}",
            *(
                f"{statistics.mean(run.get(part, 1.0) for run in runs):.1%}"
                for part in ("exchanged", "whole")
            ),
        )
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
