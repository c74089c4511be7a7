"""Seconds of a federated round with 20 clients: ours, a plain loop, and Flower's simulation.

    python benchmarks/rounds.py [--networks mlp,lenet,fedavg-cnn] [--repeats 10] [--rules dense,cwmp]
        [--no-flower]

Every client trains one epoch by SGD with momentum, on as many samples as the others: the digits data set for
the perceptron (72 samples each, batches of 8), and random 3x32x32 images for the 62 thousand weights of
``lenet`` and the 0.88 million of ``fedavg-cnn`` (200 each, batches of 25). A round of every line is local
training of all clients and the mean of what they learned; nothing is tested in it. Beside that it has

    plain loop    torch.optim.SGD and a DataLoader per client, one module, weights summed as they come
    ours, dense   everything is sent as bytes, checked and decoded; joules of six phases predicted and booked
    ours, cwmp    also a selection at 10 % of the joules with its prices and the comparison with Top-K
    Flower        the plain loop's training inside a ClientApp, weights as Flower's messages, FedAvg on the
                  server, one client per core at a time; before counting its start-up; only where flwr and ray
                  are installed

Ours trains the perceptron's clients together (``local-batched``), the others one by one (``local``); in this
process, and with two workers. Each process trains on one thread. Repeats are interleaved, half of them before
Flower's rounds and half after; ratios are of medians in one run. A machine that other programs share is
noisy: the steal of /proc/stat and the load are printed, and a tenth more or less may be chance.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from round_cases import CLIENTS, LEARNING_RATE, MOMENTUM, Case, case, plain_training

from cost_models import CostModel, fit_cost_model
from cwmp.config import TrainingConfig, training_config
from cwmp.training.batched_training import trains_together
from cwmp.training.engine import BatchedEngine, Engine, LocalEngine
from cwmp.training.federated import FederatedState, initial_state, run_round
from cwmp.training.federation import Federation, build_federation
from cwmp.training.fleet import Fleet
from cwmp.training.workers import WorkerEngine
from profiler.campaign import run_campaign
from profiler.devices import open_device
from profiler.plan import make_plan

WORKERS = 2
BUDGET = 0.1
PLAIN, FLOWER = "plain loop", "Flower"


def plain_rounds(of: Case) -> Callable[[], None]:
    """Federated averaging as a tutorial writes it; each call is one round."""
    network, shares = of.module(), of.shares()
    state = {"weights": {name: value.clone() for name, value in network.state_dict().items()}}

    def play() -> None:
        total = {name: torch.zeros_like(value) for name, value in state["weights"].items()}
        for x, y in shares:
            network.load_state_dict(state["weights"])
            plain_training(network, x, y, of.batch_size)
            for name, value in network.state_dict().items():
                total[name] += value / CLIENTS
        state["weights"] = total

    return play


def settings_of(of: Case, rule: str) -> TrainingConfig:
    """Ours: shares that are almost equal, and no test before the last of very many rounds."""
    return training_config(
        dataset="digits",
        network=of.network,
        clients=CLIENTS,
        alpha=1000.0,
        min_client_samples=1,
        local_epochs=1,
        batch_size=of.batch_size,
        learning_rate=LEARNING_RATE,
        momentum=MOMENTUM,
        selector=rule,
        budget_fraction=None if rule == "dense" else BUDGET,
        rounds=10**6,
        evaluate_every=10**6,
    )


def our_rounds(federation: Federation, engine: Engine) -> Callable[[], None]:
    """Rounds as ``calijoule train`` plays them; each call is one."""
    states: list[FederatedState] = [initial_state(federation)]

    def play() -> None:
        states[0] = run_round(federation, states[0], engine)[0]

    return play


def simulated_model(folder: Path) -> CostModel:
    """A quick calibration of a simulated device."""
    device = open_device("sim:server-cpu")
    return fit_cost_model(run_campaign(device, make_plan(device, "quick"), folder / "records.jsonl"))


def timed(players: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each player's rounds, in turn; the first round of each is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in players}
    for repeat in range(repeats + 1):
        for name, play in players.items():
            started = time.perf_counter()
            play()
            if repeat:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def stolen_s() -> float:
    """Seconds of CPU time that other guests of the host have taken on all cores; 0 where that is not told."""
    stat = Path("/proc/stat")
    return int(stat.read_text().split()[8]) / 100 if stat.exists() else 0.0


def our_players(of: Case, rule: str, model: CostModel, stack: ExitStack) -> dict[str, Callable[[], None]]:
    """Ours in this process and with workers, which end with the stack."""
    federation = build_federation(settings_of(of, rule), model, data=of.data)
    batched = trains_together(federation.network)
    pool = WorkerEngine(
        federation.config,
        model,
        None,
        fleet=Fleet(),
        data=of.data,
        coordinates=federation.costs.coordinates,
        workers=WORKERS,
        batched=batched,
    )
    here = BatchedEngine(federation) if batched else LocalEngine(federation)
    return {
        f"ours, {rule}": our_rounds(federation, here),
        f"ours, {rule}, {WORKERS} workers": our_rounds(federation, stack.enter_context(pool)),
    }


def measured(
    of: Case, rules: list[str], model: CostModel, repeats: int, *, with_flower: bool
) -> dict[str, list[float]]:
    """Seconds of the rounds of one network by column."""
    with ExitStack() as stack:
        players = {PLAIN: plain_rounds(of)}
        for rule in rules:
            players |= our_players(of, rule, model, stack)
        seconds = timed(players, -(-repeats // 2))
        if with_flower:
            from flower_rounds import flower_rounds

            seconds[FLOWER] = flower_rounds(of.network, of.batch_size, repeats)
        for name, times in timed(players, repeats // 2).items():
            seconds[name] += times
    return seconds


def rows(network: str, seconds: dict[str, list[float]]) -> list[list[str]]:
    """Median and minimum of each, and how often its median goes into that of the other two."""
    listed = []
    for name, times in seconds.items():
        ratios = [
            f"{median(seconds[other]) / median(times):.2f}" if other in seconds else "flwr missing"
            for other in (PLAIN, FLOWER)
        ]
        listed.append([network, name, f"{median(times):.3f}", f"{min(times):.3f}", *ratios])
    return listed


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--networks", default="mlp,lenet,fedavg-cnn")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--rules", default="dense,cwmp")
    parser.add_argument("--no-flower", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    with_flower = not arguments.no_flower and bool(find_spec("flwr") and find_spec("ray"))
    table = Table("network", "round", "median / s", "minimum / s", "plain / this", "Flower / this")
    stolen, started = stolen_s(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        model = simulated_model(Path(folder))
    for name in arguments.networks.split(","):
        seconds = measured(
            case(name), arguments.rules.split(","), model, arguments.repeats, with_flower=with_flower
        )
        for cells in rows(name, seconds):
            table.add_row(*cells)
    console.print(table)
    console.print(
        f"{CLIENTS} clients, {arguments.repeats} rounds of each. Stolen by other guests of the host:"
        f" {stolen_s() - stolen:.1f} s of CPU time in {time.perf_counter() - started:.0f} s; load"
        f" {os.getloadavg()[1]:.1f} on {os.cpu_count()} cores."
    )


if __name__ == "__main__":
    main()
