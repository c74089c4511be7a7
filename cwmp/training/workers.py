"""Worker processes that run the clients of a round, for ``--workers N``: the same bits as in one process.

    server                                        each worker, on one thread
    weights ─▶ shared memory                      its own federation, from the same settings
    clients, residuals ─▶ tray of an idle worker ─▶ an engine ─▶ tray ─▶ answers in the order of the clients

A task is one client, or a group that trains together. Samples and weights are shared, not copied; a worker
has its next task before the server adds up its answer. Processes are spawned: a copy of this one would
inherit the locks of its threads, but not the threads. A worker that dies ends the run, whose last checkpoint
is whole.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Self

import torch
import torch.multiprocessing  # teaches pipes to share tensors
from torch import Tensor

from calibration_data import CalijouleError, UsageError
from cost_models import CostModel
from cwmp.config import TrainingConfig
from cwmp.training.batched_training import CLIENTS_AT_ONCE, groups_of
from cwmp.training.client_round import ClientResult, Weights
from cwmp.training.datasets import Dataset
from cwmp.training.engine import BatchedEngine, Engine, LocalEngine
from cwmp.training.federation import build_federation
from cwmp.training.fleet import Fleet
from cwmp.training.local_training import weights_of
from cwmp.training.round_record import DroppedClient
from cwmp.training.sparse_update import flatten, unflatten
from cwmp.training.tray import Tray, shared
from profiler.device import Device
from profiler.simulated_device import SimulatedDevice
from profiler.simulated_spec import SimulatedDeviceSpec

SECONDS_TO_STOP = 5.0
BYTES_PER_COORDINATE = 10
"""Of a client's message and its residual together, with something to spare for headers and gaps."""
FREED_BYTES = 31 << 20
"""A block that a worker takes and gives back before it trains: glibc then keeps blocks up to that size
(mallopt(3), M_MMAP_THRESHOLD) and does not return them after a step, to be zeroed again for the next."""


class WorkerError(CalijouleError):
    """A worker process failed or died; what was trained before this round is on the disk."""


@dataclass(frozen=True, kw_only=True)
class _Setup:
    """What a worker builds its federation from."""

    config: TrainingConfig
    model: CostModel
    simulated: tuple[str, SimulatedDeviceSpec] | None
    fleet: Fleet
    data: Dataset
    weights: Tensor
    batched: bool


@dataclass(frozen=True, kw_only=True)
class _Worker:
    """A worker process as the server sees it."""

    process: SpawnProcess
    tray: Tray


class WorkerEngine:
    """Runs clients in worker processes; one name with the engine in each of them, for the bits are the same.

    Args:
        config: the settings.
        model: costs of elementary operations on the clients' device.
        device: a simulated device that accounts the phases, or None.
        fleet: clients that are other devices.
        data: samples, which are moved into shared memory.
        coordinates: of the network.
        workers: number of processes.
        batched: groups of clients train together.

    Raises:
        UsageError: a real device is to measure: its counters cannot tell clients apart that train together.
    """

    def __init__(
        self,
        config: TrainingConfig,
        model: CostModel,
        device: Device | None,
        *,
        fleet: Fleet,
        data: Dataset,
        coordinates: int,
        workers: int,
        batched: bool = False,
    ) -> None:
        if device is not None and not isinstance(device, SimulatedDevice):
            raise UsageError(
                f"{device.name} measures the joules of one client at a time, so workers cannot share it.",
                next_step="Leave out --workers, or predict only: --device none.",
            )
        for samples in (data.train_x, data.train_y, data.test_x, data.test_y):
            shared(samples)
        self._weights = shared(torch.zeros(coordinates))
        self._setup = _Setup(
            config=config,
            model=model,
            simulated=None if device is None else (device.name, device.spec),
            fleet=fleet,
            data=data,
            weights=self._weights,
            batched=batched,
        )
        self._count = workers
        self._workers: dict[Connection, _Worker] = {}

    @property
    def name(self) -> str:
        """That of the engine in each worker."""
        return (BatchedEngine if self._setup.batched else LocalEngine).name

    @property
    def processes(self) -> tuple[SpawnProcess, ...]:
        """The workers, once the engine has been entered."""
        return tuple(worker.process for worker in self._workers.values())

    def __enter__(self) -> Self:
        context = multiprocessing.get_context("spawn")
        clients = CLIENTS_AT_ONCE if self._setup.batched else 1
        for number in range(self._count):
            here, there = context.Pipe()
            tray = Tray(clients * BYTES_PER_COORDINATE * self._weights.numel())
            process = context.Process(
                target=_work, args=(there, tray, self._setup), name=f"worker-{number}", daemon=True
            )
            process.start()
            there.close()
            self._workers[here] = _Worker(process=process, tray=tray)
        return self

    def __exit__(self, *exception: object) -> None:
        for connection in self._workers:
            connection.close()
        for process in self.processes:
            process.join(SECONDS_TO_STOP)
            if process.is_alive():
                process.terminate()
                process.join()

    def run_clients(
        self, weights: Weights, residuals: Mapping[int, Weights], round_index: int, clients: Sequence[int]
    ) -> Iterator[ClientResult | DroppedClient]:
        """One answer per client, in the order given, each as soon as those before it are there.

        Raises:
            WorkerError: a worker failed or died.
        """
        self._weights.copy_(flatten(weights))
        groups = groups_of(clients) if self._setup.batched else [[client] for client in clients]
        waiting = list(reversed(groups))
        answers: dict[int, list[ClientResult | DroppedClient]] = {}
        busy: dict[Connection, Sequence[int]] = {}
        idle = list(self._workers)
        for group in groups:
            while group[0] not in answers:
                self._hand_out(waiting, idle, busy, residuals, round_index)
                for connection in [found for found in wait(list(busy)) if isinstance(found, Connection)]:
                    answers[busy.pop(connection)[0]] = self._receive(connection)
                    idle.append(connection)
            self._hand_out(waiting, idle, busy, residuals, round_index)
            yield from answers.pop(group[0])

    def _hand_out(
        self,
        waiting: list[Sequence[int]],
        idle: list[Connection],
        busy: dict[Connection, Sequence[int]],
        residuals: Mapping[int, Weights],
        round_index: int,
    ) -> None:
        """Give every idle worker something to do, as far as there is."""
        while idle and waiting:
            connection, clients = idle.pop(), waiting.pop()
            needed = {client: residuals[client] for client in clients if client in residuals}
            self._send(connection, (round_index, clients, needed))
            busy[connection] = clients

    def notes(self) -> tuple[str, ...]:
        """Nothing: they ran here."""
        return ()

    def _send(self, connection: Connection, task: tuple[int, Sequence[int], Mapping[int, Weights]]) -> None:
        try:
            connection.send_bytes(self._workers[connection].tray.dumps(task))
        except OSError as error:
            raise self._death_of(connection) from error

    def _receive(self, connection: Connection) -> list[ClientResult | DroppedClient]:
        try:
            data = connection.recv_bytes()
        except (EOFError, OSError) as error:
            raise self._death_of(connection) from error
        answer: list[ClientResult | DroppedClient] | _Failure = self._workers[connection].tray.loads(data)
        if isinstance(answer, _Failure):
            raise WorkerError(f"A worker failed: {answer.message}", next_step=answer.next_step)
        return answer

    def _death_of(self, connection: Connection) -> WorkerError:
        process = self._workers[connection].process
        process.join(SECONDS_TO_STOP)
        return WorkerError(
            f"A worker process died (exit code {process.exitcode}).",
            next_step="Everything up to the last round is kept: --resume, with fewer --workers if the memory"
            " was short.",
        )


@dataclass(frozen=True)
class _Failure:
    """An error that ended a worker."""

    message: str
    next_step: str


def _work(connection: Connection, tray: Tray, setup: _Setup) -> None:
    """Answer tasks until the server closes the pipe."""
    # Ctrl-C reaches every process of the terminal; the server's closing ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    torch.empty(FREED_BYTES, dtype=torch.uint8)
    try:
        device = None
        if setup.simulated is not None:
            name, spec = setup.simulated
            device = SimulatedDevice(spec, name=name)
        federation = build_federation(setup.config, setup.model, device, fleet=setup.fleet, data=setup.data)
        engine: Engine = BatchedEngine(federation) if setup.batched else LocalEngine(federation)
        like = weights_of(federation.network)
        while True:
            round_index, clients, residuals = tray.loads(connection.recv_bytes())
            weights = unflatten(setup.weights, like)
            answers = list(engine.run_clients(weights, residuals, round_index, clients))
            connection.send_bytes(tray.dumps(answers))
    except (EOFError, BrokenPipeError):
        return
    except CalijouleError as error:
        connection.send_bytes(tray.dumps(_Failure(error.message, error.next_step)))
    except Exception as error:
        connection.send_bytes(tray.dumps(_Failure(f"{type(error).__name__}: {error}", "Report this.")))
        raise
