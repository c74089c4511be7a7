"""Training loops that already exist, within an energy budget: one process, and two that exchange."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from fakes.known_costs import known_cost_model
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from calibration_data import UsageError
from cwmp.budgeted_gradients import BudgetedGradients
from cwmp.config import RuleName
from cwmp.cost_vector import CostVector, cost_vector
from cwmp.ddp_hook import SparseExchange, exchange
from cwmp.errors import NonFiniteGradientError
from cwmp.optimizer_hook import sparse_steps

PROCESSES = 2
FEATURES, CLASSES, BATCH = 20, 4, 32


def perceptron() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(FEATURES, 64), nn.ReLU(), nn.Linear(64, CLASSES))


def costs_of(network: nn.Module) -> CostVector:
    return cost_vector(network, known_cost_model(), boundary="update+uplink", density=0.1, link="wifi-2012")


def batch(step: int, process: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 * process + step)
    x = torch.randn(BATCH, FEATURES, generator=generator)
    return x, x[:, :CLASSES].argmax(1)


def loss_of(network: nn.Module, step: int, process: int = 0) -> Tensor:
    x, y = batch(step, process)
    return nn.functional.cross_entropy(network(x), y)


def train(network: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        loss_of(network, step).backward()
        optimizer.step()


def test_a_step_moves_only_what_its_budget_affords() -> None:
    network = perceptron()
    gradients = BudgetedGradients(costs_of(network), budget_fraction=0.1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    sparse_steps(optimizer, network, gradients)
    for step in range(5):
        before = {name: value.detach().clone() for name, value in network.named_parameters()}
        train(network, optimizer, range(step, step + 1))
        moved = sum(int((value != before[name]).sum()) for name, value in network.named_parameters())
        assert gradients.last is not None
        assert 0 < moved <= gradients.last.selection.kept < 0.2 * gradients.budget.prices.coordinates
    ledger = gradients.ledger
    assert ledger.granted_j == pytest.approx(5 * gradients.budget.budget_j)
    assert 0 < ledger.charged_j <= ledger.granted_j


def test_nothing_is_lost_with_error_feedback() -> None:
    """At a constant gradient, all that was applied plus the residual is all that there was."""
    network = nn.Linear(30, 1, bias=False)
    start = network.weight.detach().clone()
    gradients = BudgetedGradients(costs_of(network), budget_fraction=0.2)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    sparse_steps(optimizer, network, gradients)
    constant = torch.arange(1.0, 31.0).reshape(1, 30)
    for _ in range(7):
        network.weight.grad = constant.clone()
        optimizer.step()
    residual = gradients.state_dict()["residual"]["weight"]
    torch.testing.assert_close(start - network.weight.detach() + residual, 7 * constant)


def test_a_saved_run_goes_on_as_if_it_had_not_stopped() -> None:
    def begin() -> tuple[nn.Module, torch.optim.SGD]:
        network = perceptron()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        sparse_steps(optimizer, network, BudgetedGradients(costs_of(network), budget_fraction=0.1))
        return network, optimizer

    whole, optimizer = begin()
    train(whole, optimizer, range(8))
    ledger = optimizer.state_dict()["calijoule"]["ledger"]

    first, optimizer = begin()
    train(first, optimizer, range(5))
    saved = io.BytesIO()
    torch.save({"network": first.state_dict(), "optimizer": optimizer.state_dict()}, saved)
    saved.seek(0)
    state = torch.load(saved, weights_only=True)
    second, optimizer = begin()
    second.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    train(second, optimizer, range(5, 8))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    assert optimizer.state_dict()["calijoule"]["ledger"] == ledger


def test_what_would_write_other_coordinates_is_refused() -> None:
    network = perceptron()
    gradients = BudgetedGradients(costs_of(network), budget_fraction=0.1)
    for optimizer in (
        torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9),
        torch.optim.SGD(network.parameters(), lr=0.1, weight_decay=0.01),
        torch.optim.Adam(network.parameters()),
    ):
        with pytest.raises(UsageError, match="not kept"):
            sparse_steps(optimizer, network, gradients)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="exactly"):
        sparse_steps(torch.optim.SGD(network[0].parameters(), lr=0.1), network, gradients)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    sparse_steps(optimizer, network, gradients)
    with pytest.raises(UsageError, match="closure"):
        optimizer.step(lambda: 0.0)


def test_settings_that_change_after_wrapping_are_refused_before_anything_is_changed() -> None:
    def by_a_scheduler(optimizer: torch.optim.SGD) -> None:
        torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=10)

    def by_a_state(optimizer: torch.optim.SGD) -> None:
        state = optimizer.state_dict()
        state["param_groups"][0]["weight_decay"] = 0.1
        optimizer.load_state_dict(state)

    def by_a_group(optimizer: torch.optim.SGD) -> None:
        optimizer.add_param_group({"params": nn.Parameter(torch.ones(3))})

    for change, problem in ((by_a_scheduler, "not kept"), (by_a_state, "not kept"), (by_a_group, "exactly")):
        network = perceptron()
        gradients = BudgetedGradients(costs_of(network), budget_fraction=0.1)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        sparse_steps(optimizer, network, gradients)
        change(optimizer)
        before = {name: value.clone() for name, value in network.state_dict().items()}
        with pytest.raises(UsageError, match=problem):
            train(network, optimizer, range(1))
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        assert gradients.steps == 0


def test_a_parameter_without_elements_has_no_coordinate() -> None:
    for rule in ("cwmp", "dense"):
        moved = []
        for extra in (False, True):
            network = perceptron()
            if extra:
                network.register_parameter("empty", nn.Parameter(torch.zeros(0)))
            costs = costs_of(network)
            fraction = None if rule == "dense" else 0.1
            gradients = BudgetedGradients(costs, rule=rule, budget_fraction=fraction)  # type: ignore[arg-type]
            optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
            sparse_steps(optimizer, network, gradients)
            train(network, optimizer, range(2))
            moved.append((network[0].weight, gradients.ledger))
        (without, its_ledger), (with_it, ledger) = moved
        assert torch.equal(without, with_it)
        assert ledger == its_ledger


def test_one_budget_is_needed() -> None:
    costs = costs_of(perceptron())
    with pytest.raises(UsageError, match="one budget"):
        BudgetedGradients(costs)
    with pytest.raises(UsageError, match="one budget"):
        BudgetedGradients(costs, budget_j=1.0, budget_fraction=0.1)


def test_a_gradient_that_is_not_finite_stops_the_step_and_books_nothing() -> None:
    network = perceptron()
    gradients = BudgetedGradients(costs_of(network), budget_fraction=0.1)
    broken = {name: torch.full_like(value, torch.nan) for name, value in network.named_parameters()}
    with pytest.raises(NonFiniteGradientError):
        gradients.keep(broken)
    assert gradients.steps == 0
    assert gradients.ledger.charged_j == 0
    assert gradients.state_dict()["residual"] == {}


def test_a_state_of_another_version_is_refused() -> None:
    gradients = BudgetedGradients(costs_of(perceptron()), budget_fraction=0.1)
    with pytest.raises(UsageError, match="version"):
        gradients.load_state_dict({"version": 99})


CASES: dict[str, tuple[RuleName, float]] = {
    "dense": ("dense", 25.0),
    "one bucket": ("cwmp", 25.0),
    "many buckets": ("cwmp", 0.001),
}


def test_bfloat16_gradients_are_exchanged() -> None:
    network = perceptron().bfloat16()
    costs = cost_vector(network, known_cost_model("datacenter-gpu"), boundary="update", density=0.1)
    gradients = BudgetedGradients(costs, budget_fraction=0.1)
    x, y = batch(0)

    def loss_from(module: nn.Module) -> Tensor:
        return nn.functional.cross_entropy(module(x.bfloat16()), y)

    dense = torch.autograd.grad(loss_from(network), list(network.parameters()))
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        parallel = DistributedDataParallel(network)
        parallel.register_comm_hook(SparseExchange(network, gradients), exchange)
        loss_from(parallel).backward()
    finally:
        dist.destroy_process_group()
    kept = sum(int(parameter.grad.count_nonzero()) for parameter in network.parameters())  # type: ignore[union-attr]
    assert gradients.last is not None
    assert 0 < kept == gradients.last.selection.kept < costs.coordinates
    for parameter, all_of_it in zip(network.parameters(), dense, strict=True):
        sent = parameter.grad
        assert sent is not None
        assert torch.equal(sent, all_of_it * (sent != 0))


def _process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=PROCESSES
    )
    results = {name: _train_in_parallel(rank, *case) for name, case in CASES.items()}
    torch.save(results, Path(folder, f"{rank}.pt"))
    dist.destroy_process_group()


def _train_in_parallel(rank: int, rule: RuleName, bucket_mb: float) -> dict[str, Any]:
    inner = perceptron()
    network = DistributedDataParallel(inner, bucket_cap_mb=bucket_mb)
    fraction = None if rule == "dense" else 0.1
    gradients = BudgetedGradients(costs_of(inner), budget_fraction=fraction, rule=rule)
    state = SparseExchange(inner, gradients)
    network.register_comm_hook(state, exchange)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    kept = 0
    for step in range(6):
        optimizer.zero_grad()
        loss_of(network, step, rank).backward()
        assert gradients.last is not None
        kept += gradients.last.selection.kept
        optimizer.step()
    ledger = gradients.ledger.state()
    return {"weights": inner.state_dict(), "kept": kept, "bytes": state.sent_bytes, "ledger": ledger}


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes ended with, by case."""
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(_process, (str(folder),), nprocs=PROCESSES)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(PROCESSES)]


def test_a_dense_exchange_is_data_parallel_training(processes: list[dict[str, Any]]) -> None:
    """With everything kept the hook computes what one process computes on both batches."""
    network = perceptron()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for step in range(6):
        optimizer.zero_grad()
        (0.5 * (loss_of(network, step, 0) + loss_of(network, step, 1))).backward()
        optimizer.step()
    for name, value in network.state_dict().items():
        for process in processes:
            torch.testing.assert_close(process["dense"]["weights"][name], value)


def test_two_processes_agree_whatever_the_buckets(processes: list[dict[str, Any]]) -> None:
    """Small buckets arrive one by one; the exchange is of all coordinates all the same."""
    first = processes[0]["one bucket"]
    for process in processes:
        for case in ("one bucket", "many buckets"):
            for name, value in first["weights"].items():
                assert torch.equal(value, process[case]["weights"][name])
            ledger = process[case]["ledger"]
            assert 0 < ledger["charged_j"] <= ledger["granted_j"]
            # Four bytes for an index, four for a value.
            assert process[case]["bytes"] == 8 * process[case]["kept"]
