"""What rules are predicted to keep of the next update, against what they do keep, on trained networks.

    python benchmarks/predicted_gain.py [--images DIR] [--rounds N]

A network is trained in rounds; histograms of a round's update predict what each rule keeps of it, and of the
next round's. Digits come with scikit-learn; CIFAR-10 is read where its folder is given. The table shows
relative errors over rounds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from cost_models import CostModel, fit_cost_model
from cwmp.cost_vector import cost_vector
from cwmp.gradient_histogram import GradientHistogram
from cwmp.networks import build_network
from cwmp.predicted_gain import Gain, empirical_gains, gains_on, predicted_gains, price_groups
from cwmp.training.datasets import load_dataset
from profiler.campaign import run_campaign
from profiler.devices import open_device
from profiler.plan import make_plan

SHARES = (0.01, 0.05, 0.2)
STEPS_PER_ROUND = 60
BATCH = 32
TRAIN_IMAGES = 6000


def updates(network: nn.Module, x: Tensor, y: Tensor, rounds: int) -> list[dict[str, Tensor]]:
    """What each round changed."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(rounds):
        before = {name: value.detach().clone() for name, value in network.named_parameters()}
        for _ in range(STEPS_PER_ROUND):
            indices = torch.randint(len(x), (BATCH,), generator=generator)
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x[indices]), y[indices]).backward()
            optimizer.step()
        found.append({name: value.detach() - before[name] for name, value in network.named_parameters()})
    return found


def errors(
    network: nn.Module, found: Sequence[dict[str, Tensor]], model: CostModel, console: Console, title: str
) -> None:
    costs = cost_vector(network, model, boundary="update", density=0.05)
    prices_j = costs.prices_j
    table = Table(
        "budget", "rule", "kept, mean", "error by its own histogram: worst", "by the earlier update: median",
        "worst", "by Laplace: median",
        title=f"{title}, Var(ln c) = {costs.var_ln_c:.2f}, {len(found)} rounds",
    )  # fmt: skip
    laplace = predicted_gains(price_groups(costs), SHARES)
    achieved = [gains_on(update, prices_j, SHARES) for update in found]
    predicted = [
        empirical_gains(
            {name: GradientHistogram.of(value) for name, value in update.items()}, prices_j, SHARES
        )
        for update in found
    ]
    for index, share in enumerate(SHARES):
        for rule in ("cwmp", "topk", "cwmp_l1"):
            true = [getattr(gains[index], rule) for gains in achieved[1:]]
            by_earlier = [
                _error(gains[index], rule, is_) for gains, is_ in zip(predicted, true, strict=False)
            ]
            by_own = [_error(gains[index], rule, is_) for gains, is_ in zip(predicted[1:], true, strict=True)]
            by_laplace = [_error(laplace[index], rule, is_) for is_ in true]
            table.add_row(
                f"{share:.0%}", rule, f"{statistics.mean(true):.1%}", f"{max(by_own):.2%}",
                f"{statistics.median(by_earlier):.2%}", f"{max(by_earlier):.2%}",
                f"{statistics.median(by_laplace):.1%}",
            )  # fmt: skip
    console.print(table)


def _error(gain: Gain, rule: str, achieved: float) -> float:
    return abs(float(getattr(gain, rule)) / achieved - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="folder of CIFAR-10, as the setting data_dir")
    parser.add_argument("--rounds", type=int, default=12)
    options = parser.parse_args()
    console = Console(width=130)
    with tempfile.TemporaryDirectory() as folder:
        device = open_device("sim:server-cpu")
        records = run_campaign(device, make_plan(device, "quick"), Path(folder, "records.jsonl"))
        model = fit_cost_model(records)
    data = load_dataset("digits", 0)
    for name in ("mlp", "cnn"):
        network = build_network(name)
        found = updates(network, data.train_x, data.train_y, options.rounds)
        errors(network, found, model, console, f"digits, {name}")
    if options.images:
        images = load_dataset("cifar10", 0, data_dir=options.images, train_samples=TRAIN_IMAGES)
        network = build_network("fedavg-cnn", sample_shape=images.sample_shape)
        found = updates(network, images.train_x, images.train_y, options.rounds)
        errors(network, found, model, console, "CIFAR-10, FedAvg CNN")


if __name__ == "__main__":
    main()
