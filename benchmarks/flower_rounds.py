"""Flower's simulation of the rounds that ``benchmarks/rounds.py`` times; the only one that imports flwr."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable
from functools import cache
from itertools import pairwise

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from round_cases import CLIENTS, Case, case, plain_training


class _Timed(FedAvg):
    """Federated averaging that notes when each round was over."""

    def __init__(self, over: list[float]) -> None:
        super().__init__(fraction_evaluate=0.0, min_available_nodes=CLIENTS)
        self._over = over

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        result = super().aggregate_train(server_round, replies)
        if result[0] is None:
            raise RuntimeError("Flower's clients failed; see its log.")
        self._over.append(time.perf_counter())
        return result


@cache
def _case(network: str) -> Case:
    return case(network)


def flower_rounds(network: str, batch_size: int, repeats: int) -> list[float]:
    """Seconds of each round after the first, with one client per core at a time."""
    over: list[float] = []
    client, server = ClientApp(), ServerApp()

    @client.train()
    def train(message: Message, context: Context) -> Message:
        torch.set_num_threads(1)
        of = _case(network)
        module = of.module()
        module.load_state_dict(message.content["arrays"].to_torch_state_dict())
        x, y = of.shares()[int(context.node_config["partition-id"])]
        plain_training(module, x, y, batch_size)
        content = {
            "arrays": ArrayRecord(module.state_dict()),
            "metrics": MetricRecord({"num-examples": len(y)}),
        }
        return Message(content=RecordDict(content), reply_to=message)

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        arrays = ArrayRecord(_case(network).module().state_dict())
        _Timed(over).start(grid=grid, initial_arrays=arrays, num_rounds=repeats + 1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run_simulation(
            server_app=server,
            client_app=client,
            num_supernodes=CLIENTS,
            backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
        )
    return [after - before for before, after in pairwise(over)]
