"""What a client does with a task: the round of ``client_round``, with its own prices, budget and memory.

Its node config says who it is:

    partition-id     its number
    cost-model       file of its own device's cost model, or published:NAME; needed on real nodes
    budget-j         joules of a round, or budget-fraction, in the place of the run's
    device           whose sensors see its phases: auto (that of the cost model, the default), none, or a name
    powercap-root    root of the RAPL tree
    state-dir        where its residuals are kept [~/.calijoule/flower]
    data-dir         folder of its data set, in the place of the run's
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from calibration_data import CalijouleError, UsageError
from cost_models import CostModel, load_cost_model
from cwmp.config import TrainingConfig, training_config
from cwmp.errors import NonFiniteGradientError
from cwmp.flower.host import STARTED, HostWindows, alone_on_host, boot_id
from cwmp.flower.protocol import MAX_REASON, Answer, ClientAccount, Refusal, Task
from cwmp.flower.residual_store import ResidualStore
from cwmp.flower.settings import COST_MODEL, AppSettings, read_settings
from cwmp.measuring_device import find_device
from cwmp.training.client_round import Weights, client_round
from cwmp.training.federation import Federation, build_federation
from cwmp.training.fleet import Fleet
from cwmp.training.local_training import DivergedError, weights_of
from cwmp.training.run_summary import cost_model_sha256, described_device
from cwmp.training.sparse_update import decode, unflatten
from profiler.device import Device
from profiler.devices import open_device
from profiler.sensors import POWERCAP_ROOT

CLIENTS = "clients"
"""Folder inside that of a simulation's run, in which its clients keep their residuals."""
STATE_DIR = Path(".calijoule") / "flower"

NodeConfig = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Node:
    """A client's own side of a run.

    Attributes:
        federation: with its own prices, budget and meter.
        model: the cost model behind them.
        device: whose sensors see its phases; None predicts only.
        measured_by: name of the device that accounts its joules; None without.
        state_dir: where its residuals are kept.
    """

    federation: Federation
    model: CostModel
    device: Device | None
    measured_by: str | None
    state_dir: Path


def serve(app: Path, node_config: NodeConfig, task: Task, weights: bytes) -> tuple[Answer, bytes] | Refusal:
    """Answer a task: what was done and the message, or why there is none.

    Args:
        app: folder of the app's modules and settings.
        node_config: of the node that runs this client.
        task: what the server asks for.
        weights: the global weights, as ``sparse_update.encode`` codes a full update.
    """
    try:
        if node_config.get("partition-id") != task.client:
            raise UsageError(f"This node is not client {task.client}.")
        settings = read_settings(app)
        own = _simulated(app, task.client) if settings.simulation else _real(app, settings, node_config)
        return _answer(own, task, weights)
    except (DivergedError, NonFiniteGradientError) as error:
        return Refusal(cause="diverged", reason=error.message)
    except CalijouleError as error:
        return Refusal(cause="invalid", reason=str(error)[:MAX_REASON])


def _real(app: Path, settings: AppSettings, node_config: NodeConfig) -> Node:
    """A client that is what its node config says.

    Raises:
        UsageError: it has no cost model, or something in its config cannot be done.
        InvalidFileError: a file that it names is broken.
        NoUsableSensorError: a device that it names cannot be measured.
    """
    if "cost-model" not in node_config:
        raise UsageError(
            "This node has no cost model.", next_step='Start it with cost-model="MODEL.json" in its config.'
        )
    model = load_cost_model(Path(str(node_config["cost-model"])))
    root = Path(str(node_config.get("powercap-root", POWERCAP_ROOT)))
    found = find_device(str(node_config.get("device", "auto")), model, powercap_root=root)
    device = None if isinstance(found, str) else found
    return Node(
        federation=build_federation(_own_config(settings.config, node_config), model, device, fleet=Fleet()),
        model=model,
        device=device,
        measured_by=None if device is None else device.name,
        state_dir=Path(str(node_config.get("state-dir", Path.home() / STATE_DIR))),
    )


def _own_config(config: TrainingConfig, node_config: NodeConfig) -> TrainingConfig:
    """The settings with the node's own budget and data folder."""
    own = config.model_dump()
    if "budget-j" in node_config or "budget-fraction" in node_config:
        own["budget_j"] = node_config.get("budget-j")
        own["budget_fraction"] = node_config.get("budget-fraction")
    if "data-dir" in node_config:
        own["data_dir"] = node_config["data-dir"]
    return training_config(**own)


def _simulated(app: Path, client: int) -> Node:
    """A client of a simulation: the run's own cost model, fleet and device stand for its."""
    settings, federation, model, device = _simulation(app)
    group = next((group for group in federation.groups if client in group.clients), None)
    own_device = None if device is None else device.name
    return Node(
        federation=federation.of_client(client),
        model=model if group is None else group.model,
        device=device,
        measured_by=own_device if group is None else group.measuring_device,
        state_dir=Path(settings.out) / CLIENTS,
    )


@lru_cache(maxsize=1)
def _simulation(app: Path) -> tuple[AppSettings, Federation, CostModel, Device | None]:
    """What all clients of a simulation share, once in a process."""
    settings = read_settings(app)
    os.chdir(settings.directory or ".")
    model = load_cost_model(app / COST_MODEL)
    root = Path(settings.powercap_root)
    device = None if settings.device is None else open_device(settings.device, powercap_root=root)
    return settings, build_federation(settings.config, model, device), model, device


def _answer(node: Node, task: Task, weights: bytes) -> tuple[Answer, bytes]:
    federation = node.federation
    if federation.partition.sha256 != task.partition_sha256:
        raise UsageError(
            "The training samples are shared out in another way here.",
            next_step="Use the same data and the same versions of calijoule and numpy as the server.",
        )
    network = weights_of(federation.network)
    store = ResidualStore(node.state_dir, task.run, task.client, network)
    remembered = store.after(task.used_round) if federation.config.error_feedback else {}
    startup_s = STARTED.seconds()
    with alone_on_host(node.device):
        windows = HostWindows(node.device)
        windows.open()
        result = client_round(
            federation, _received(weights, network), remembered or {}, task.round, task.client
        )
        seen = windows.close()
    if result.residual:
        store.keep(task.round, result.residual, used=task.used_round)
    account = ClientAccount(
        device=described_device(node.model),
        cost_model_sha256=cost_model_sha256(node.model),
        cost_model_provenance=node.model.provenance,
        measuring_device=node.measured_by,
        host=boot_id(),
        startup_s=startup_s,
        windows=seen,
        residual="lost" if remembered is None else "found" if remembered else "none",
    )
    return Answer(report=result.report, account=account), result.message


def _received(payload: bytes, network: Weights) -> Weights:
    """The global weights; all of them, or none is of use."""
    full = decode(payload, network)
    if full.indices is not None:
        raise UsageError("The server sent a part of the weights.")
    return unflatten(full.values, network)
