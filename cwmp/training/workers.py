"""Worker processes that run the clients of a round, for ``--workers N``: the same bits as in one process.

    server                                        each worker, on one thread
    weights ─▶ shared memory                      its own federation, from the same settings
    client, residual ─▶ pipe of an idle worker ─▶ client_round ─▶ pipe ─▶ answers in the order of the clients

Samples and weights are shared, not copied. Processes are spawned: a copy of this one would inherit the locks
of its threads, but not the threads. A worker that dies ends the run, whose last checkpoint is whole.
"""

from __future__ import annotations

import multiprocessing
import pickle
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
from cwmp.training.client_round import ClientResult, Weights
from cwmp.training.datasets import Dataset
from cwmp.training.engine import LocalEngine, attempt
from cwmp.training.federation import build_federation
from cwmp.training.fleet import Fleet
from cwmp.training.local_training import weights_of
from cwmp.training.round_record import DroppedClient
from cwmp.training.sparse_update import flatten, unflatten
from profiler.device import Device
from profiler.simulated_device import SimulatedDevice
from profiler.simulated_spec import SimulatedDeviceSpec

SECONDS_TO_STOP = 5.0


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


class WorkerEngine:
    """Runs clients in worker processes; one name with ``LocalEngine``, for the bits are the same.

    Args:
        config: the settings.
        model: costs of elementary operations on the clients' device.
        device: a simulated device that accounts the phases, or None.
        fleet: clients that are other devices.
        data: samples, which are moved into shared memory.
        coordinates: of the network.
        workers: number of processes.

    Raises:
        UsageError: a real device is to measure: its counters cannot tell clients apart that train together.
    """

    name = LocalEngine.name

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
    ) -> None:
        if device is not None and not isinstance(device, SimulatedDevice):
            raise UsageError(
                f"{device.name} measures the joules of one client at a time, so workers cannot share it.",
                next_step="Leave out --workers, or predict only: --device none.",
            )
        for samples in (data.train_x, data.train_y, data.test_x, data.test_y):
            _shared(samples)
        self._weights = _shared(torch.zeros(coordinates))
        self._setup = _Setup(
            config=config,
            model=model,
            simulated=None if device is None else (device.name, device.spec),
            fleet=fleet,
            data=data,
            weights=self._weights,
        )
        self._count = workers
        self._workers: dict[Connection, SpawnProcess] = {}

    @property
    def processes(self) -> tuple[SpawnProcess, ...]:
        """The workers, once the engine has been entered."""
        return tuple(self._workers.values())

    def __enter__(self) -> Self:
        context = multiprocessing.get_context("spawn")
        for number in range(self._count):
            here, there = context.Pipe()
            process = context.Process(
                target=_work, args=(there, self._setup), name=f"worker-{number}", daemon=True
            )
            process.start()
            there.close()
            self._workers[here] = process
        return self

    def __exit__(self, *exception: object) -> None:
        for connection in self._workers:
            connection.close()
        for process in self._workers.values():
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
        waiting = list(reversed(clients))
        answers: dict[int, ClientResult | DroppedClient] = {}
        busy: set[Connection] = set()
        idle = list(self._workers)
        for client in clients:
            while client not in answers:
                while idle and waiting:
                    connection, following = idle.pop(), waiting.pop()
                    self._send(connection, (round_index, following, residuals.get(following, {})))
                    busy.add(connection)
                ready = set(wait(list(busy)))
                for connection in [connection for connection in busy if connection in ready]:
                    answer = self._receive(connection)
                    answers[_client_of(answer)] = answer
                    busy.remove(connection)
                    idle.append(connection)
            yield answers.pop(client)

    def notes(self) -> tuple[str, ...]:
        """Nothing: they ran here."""
        return ()

    def _send(self, connection: Connection, task: tuple[int, int, Weights]) -> None:
        try:
            connection.send_bytes(_dumped(task))
        except OSError as error:
            raise self._death_of(connection) from error

    def _receive(self, connection: Connection) -> ClientResult | DroppedClient:
        try:
            answer: ClientResult | DroppedClient | _Failure = pickle.loads(connection.recv_bytes())
        except (EOFError, OSError) as error:
            raise self._death_of(connection) from error
        if isinstance(answer, _Failure):
            raise WorkerError(f"A worker failed: {answer.message}", next_step=answer.next_step)
        return answer

    def _death_of(self, connection: Connection) -> WorkerError:
        process = self._workers[connection]
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


def _work(connection: Connection, setup: _Setup) -> None:
    """Answer tasks until the server closes the pipe."""
    # Ctrl-C reaches every process of the terminal; the server's closing ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    try:
        device = None
        if setup.simulated is not None:
            name, spec = setup.simulated
            device = SimulatedDevice(spec, name=name)
        federation = build_federation(setup.config, setup.model, device, fleet=setup.fleet, data=setup.data)
        like = weights_of(federation.network)
        while True:
            round_index, client, residual = pickle.loads(connection.recv_bytes())
            weights = unflatten(setup.weights, like)
            connection.send_bytes(_dumped(attempt(federation, weights, residual, round_index, client)))
    except (EOFError, BrokenPipeError):
        return
    except CalijouleError as error:
        connection.send_bytes(pickle.dumps(_Failure(error.message, error.next_step)))
    except Exception as error:
        connection.send_bytes(pickle.dumps(_Failure(f"{type(error).__name__}: {error}", "Report this.")))
        raise


def _shared(tensor: Tensor) -> Tensor:
    """Move a tensor into shared memory, where it is."""
    moved: Tensor = tensor.share_memory_()  # type: ignore[no-untyped-call]
    return moved


def _dumped(content: object) -> bytes:
    """Bytes of an object whose tensors are copied into them, not shared by file descriptors."""
    return pickle.dumps(content, protocol=pickle.HIGHEST_PROTOCOL)


def _client_of(answer: ClientResult | DroppedClient) -> int:
    return answer.client if isinstance(answer, DroppedClient) else answer.report.client
