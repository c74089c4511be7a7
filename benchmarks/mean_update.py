"""What rules keep of each client's update, of the mean of all clients, and how far that takes the model.

    python benchmarks/mean_update.py --cost-model MODEL.json --config RUN.toml [--budgets 0.01 0.05]
                                     [--rounds 1 5 10 20] [--out TABLE.csv]

A dense federated run is the path. After some of its rounds every rule chooses from the same updates of all
clients at the same joules, without error feedback, and the table shows

    kept        squared norm of the clients' updates that was kept, as a share
    of mean     of the mean update m of the dense round: <kept mean, m> / <m, m>
    loss        decrease of the training loss by one step with the kept mean, and by the dense one
    agreement   squared norm of the mean over the mean of the clients' squared norms, by tensor: 1 where
                clients agree, 1/clients where they are independent, less where they pull apart

A rule that keeps more of every client need not move the model further: what clients do not agree on cancels
in the mean, and a step that is too long along some coordinates undoes what it gains along others.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from cost_models import load_cost_model
from cwmp.config import RuleName, load_training_config
from cwmp.selection.budgeted import plan_budget, select_within
from cwmp.training.client_round import train_client
from cwmp.training.federated import participants
from cwmp.training.federation import Federation, build_federation
from cwmp.training.local_training import evaluate, single_thread, weights_of
from cwmp.training.sparse_update import flatten, unflatten

RULES: tuple[RuleName, ...] = ("cwmp", "cwmp-l1", "topk")

Weights = Mapping[str, Tensor]


def moved(weights: Weights, step: Tensor) -> dict[str, Tensor]:
    return {name: weights[name] - part.float() for name, part in unflatten(step, weights).items()}


def training_loss(federation: Federation, weights: Weights) -> float:
    return evaluate(federation.network, weights, federation.data.train_x, federation.data.train_y)[1]


def weighted_mean(updates: list[Tensor], shares: Tensor) -> Tensor:
    return sum((share * update for share, update in zip(shares, updates, strict=True)), torch.zeros(()))


def agreement(mean: Tensor, updates: list[Tensor], shares: Tensor, like: Weights) -> dict[str, float]:
    """Squared norm of the mean over the mean squared norm, by tensor."""
    squares = weighted_mean([update.square() for update in updates], shares)
    means, parts = unflatten(mean, like), unflatten(squares, like)
    return {name: float(means[name].square().sum() / parts[name].sum()) for name in like}


def rows_of_round(
    federation: Federation, weights: Weights, number: int, budgets: list[float]
) -> tuple[Tensor, list[dict[str, float | str]], dict[str, float]]:
    """The dense mean update of a round, a row for each rule and budget, and the clients' agreement."""
    clients = participants(federation.config, number)
    updates = [train_client(federation, weights, number, client).update for client in clients]
    samples = torch.tensor([len(federation.partition.indices[client]) for client in clients]).double()
    shares = samples / samples.sum()
    dense = weighted_mean([flatten(update).double() for update in updates], shares)
    before = training_loss(federation, weights)
    dense_gain = before - training_loss(federation, moved(weights, dense))
    rows: list[dict[str, float | str]] = []
    for budget in budgets:
        for rule in RULES:
            plan = plan_budget(
                federation.costs,
                rule=rule,
                budget_j=None,
                budget_fraction=budget,
                confidence=federation.config.confidence,
            )
            choices = [select_within(update, plan, rule=rule, seed=number) for update in updates]
            kept = [
                flatten({name: value * choice.selection.masks[name] for name, value in update.items()})
                for update, choice in zip(updates, choices, strict=True)
            ]
            mean = weighted_mean([update.double() for update in kept], shares)
            total = math.fsum(choice.selection.total_squared_norm for choice in choices)
            rows.append(
                {
                    "round": number,
                    "budget": budget,
                    "rule": rule,
                    "kept": math.fsum(c.selection.retained_squared_norm for c in choices) / total,
                    "of_mean": float(mean @ dense / (dense @ dense)),
                    "loss": before,
                    "loss_decrease": before - training_loss(federation, moved(weights, mean)),
                    "dense_loss_decrease": dense_gain,
                }
            )
    return dense, rows, agreement(dense, [flatten(update).double() for update in updates], shares, weights)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cost-model", type=Path, required=True)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.01, 0.05])
    parser.add_argument("--rounds", type=int, nargs="+", default=[1, 5, 10, 20])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    config = load_training_config(options.config, selector="dense")
    federation = build_federation(config, load_cost_model(options.cost_model))
    weights: Weights = weights_of(federation.network)
    console = Console()
    table = Table(
        "round", "budget", "rule", "kept", "of mean", "loss decrease", "dense", title=config.network
    )
    rows: list[dict[str, float | str]] = []
    with single_thread():
        for number in range(1, max(options.rounds) + 1):
            budgets = options.budgets if number in options.rounds else []
            dense, found, agreed = rows_of_round(federation, weights, number, budgets)
            weights = moved(weights, dense)
            rows += found
            for row in found:
                figures = (f"{row[key]:.3f}" for key in ("kept", "of_mean"))
                losses = (f"{row[key]:+.4f}" for key in ("loss_decrease", "dense_loss_decrease"))
                table.add_row(str(number), f"{row['budget']:g}", str(row["rule"]), *figures, *losses)
            if budgets:
                console.print(f"round {number}, agreement:", {k: round(v, 3) for k, v in agreed.items()})
    console.print(table)
    if options.out is not None:
        with options.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
