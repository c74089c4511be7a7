"""Sparse exchange of gradients under distributed data parallel, within an energy budget for each step.

    network = DistributedDataParallel(network)
    network.register_comm_hook(SparseExchange(network.module, BudgetedGradients(costs, ...)), exchange)

DDP hands over gradients in buckets while backward still runs. Which coordinates are worth their joules is a
question about all of them, so the buckets wait for the last one; then every process sends its kept
coordinates to all others and takes their mean. A coordinate that a process did not send counts as zero.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import GradBucket

from calibration_data import UsageError
from cwmp.budgeted_gradients import BudgetedGradients
from cwmp.training.sparse_update import SparseUpdate, average, pack, unflatten


class SparseExchange:
    """State of the communication hook in one process.

    Args:
        network: the module inside DistributedDataParallel.
        gradients: the budget of a step, and what is remembered; one in each process.
        group: processes that exchange; all of them if None.

    Attributes:
        gradients: as given; its ledger has the joules of this process's updates.
        sent_bytes: bytes of indices and values that this process has sent, once per step however many
            receive them.
    """

    def __init__(
        self, network: nn.Module, gradients: BudgetedGradients, *, group: dist.ProcessGroup | None = None
    ) -> None:
        self.gradients = gradients
        self.sent_bytes = 0
        self._names = {id(value): name for name, value in network.named_parameters() if value.requires_grad}
        self._group = group
        self._arrived: dict[str, Tensor] = {}
        self._waiting: list[tuple[Tensor, torch.futures.Future[Tensor]]] = []

    def arrive(self, bucket: GradBucket) -> torch.futures.Future[Tensor]:
        """Take in a bucket; with the last one, exchange, and fulfil what all of them wait for."""
        buffer = bucket.buffer()
        devices: list[int | str | torch.device] | None = [buffer.device] if buffer.is_cuda else None
        future: torch.futures.Future[Tensor] = torch.futures.Future(devices=devices)
        self._waiting.append((buffer, future))
        for parameter, gradient in zip(bucket.parameters(), bucket.gradients(), strict=True):
            name = self._names.get(id(parameter))
            if name is None:
                raise UsageError(
                    "Distributed data parallel exchanges a parameter that the network does not have.",
                    next_step="Give SparseExchange the module inside: network.module.",
                )
            self._arrived[name] = gradient
        if bucket.is_last():
            self._exchange()
        return future

    def _exchange(self) -> None:
        # Selection numbers coordinates in the order of the network, buckets come in another.
        arrived = {name: self._arrived[name] for name in self._names.values()}
        waiting, self._waiting, self._arrived = self._waiting, [], {}
        kept = self.gradients.keep(arrived)
        choice = self.gradients.last
        assert choice is not None
        message = pack(kept, choice.selection.bitmasks)
        self.sent_bytes += message.payload_bytes
        messages = _all_gather(message, self._group)
        mean = average(messages, [1] * len(messages), message.coordinates)
        for name, value in unflatten(mean, arrived).items():
            arrived[name].copy_(value)
        for buffer, future in waiting:
            future.set_result(buffer)


# Distributed data parallel compares the annotation itself with this class, so it must not be a string.
def exchange(state: SparseExchange, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    """The hook of ``DistributedDataParallel.register_comm_hook``."""
    return state.arrive(bucket)


def _all_gather(message: SparseUpdate, group: dist.ProcessGroup | None) -> list[SparseUpdate]:
    """Everybody's messages, in the order of the processes."""
    values = message.values
    indices = message.indices
    if indices is None:
        indices = torch.arange(message.coordinates, device=values.device)
    # The collective moves tensors of one length, so all are as long as the longest.
    length = torch.tensor([values.numel()], device=values.device)
    lengths = [torch.zeros_like(length) for _ in range(dist.get_world_size(group))]
    dist.all_gather(lengths, length, group=group)
    counts = [int(count) for count in lengths]
    gathered_indices = _padded_all_gather(indices.long(), max(counts), group)
    gathered_values = _padded_all_gather(values, max(counts), group)
    return [
        SparseUpdate(
            indices=index[:count].cpu(), values=_summable(value[:count]), coordinates=message.coordinates
        )
        for index, value, count in zip(gathered_indices, gathered_values, counts, strict=True)
    ]


def _summable(values: Tensor) -> Tensor:
    """The same numbers where they are added up, in a format that numpy has."""
    host = values.cpu()
    return host.float() if host.dtype == torch.bfloat16 else host


def _padded_all_gather(part: Tensor, length: int, group: dist.ProcessGroup | None) -> list[Tensor]:
    padded = part.new_zeros(length)
    padded[: part.numel()] = part
    gathered = [torch.empty_like(padded) for _ in range(dist.get_world_size(group))]
    dist.all_gather(gathered, padded, group=group)
    return gathered
