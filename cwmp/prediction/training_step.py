"""A step of any network on made-up samples: forward, loss, backward, optimiser.

The work of a step depends on shapes, not on values, so random samples do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from calibration_data import CalijouleError, MemoryHierarchy, UsageError
from cwmp.errors import EmptyNetworkError, in_one_line
from cwmp.prediction.work_counter import CountedWork, WorkCounter

OptimizerName = Literal["sgd", "momentum", "adam", "adamw"]

_OPTIMIZERS: dict[OptimizerName, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=1e-3),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=1e-3, momentum=0.9),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=1e-3),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
}


class TrainingStep:
    """One step that can be run again and again.

    The loss is the network's own output if that is a single number; cross-entropy over the last dimension if
    the output is a table of classes or the samples are tokens; else the mean square. Of several outputs the
    first counts.

    Args:
        network: any network; its weights are trained by each step.
        input_shape: of one sample.
        batch_size: samples of a step.
        optimizer: None runs the forward pass alone, without gradients and in evaluation mode.
        vocabulary: samples are integers below this; None for real numbers.
        device: of torch.

    Raises:
        EmptyNetworkError: nothing can be trained.
        UsageError: the network does not take such samples.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        input_shape: tuple[int, ...],
        batch_size: int,
        optimizer: OptimizerName | None,
        vocabulary: int | None = None,
        device: str = "cpu",
    ) -> None:
        self._network = network.to(device).train(optimizer is not None)
        self._shape = (batch_size, *input_shape)
        self._vocabulary = vocabulary
        self._optimizer_name = optimizer
        self._optimizer: torch.optim.Optimizer | None = None
        self._targets: Tensor | None = None
        with torch.random.fork_rng(devices=[]), self._clear_errors():
            torch.manual_seed(0)
            self._samples = (
                torch.randn(self._shape, device=device, dtype=_dtype_of(network))
                if vocabulary is None
                else torch.randint(vocabulary, self._shape, device=device)
            )
            # This also gives lazy parameters their shapes.
            with torch.no_grad():
                output = self._network(self._samples)
        if optimizer is None:
            return
        self._targets = self._made_up_targets(_first_real(output))
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        if not parameters:
            raise EmptyNetworkError(
                "The network has no trainable parameter.",
                next_step="Give a network that can be trained, or predict its forward pass alone.",
            )
        self._optimizer = _OPTIMIZERS[optimizer](parameters)

    @property
    def description(self) -> str:
        """What the step is, in words."""
        samples = "real numbers" if self._vocabulary is None else f"integers below {self._vocabulary}"
        parts = ["forward"]
        if self._optimizer is not None:
            loss = "cross-entropy" if self._targets is not None else "the network's own loss or mean square"
            parts += [loss, "backward", f"step of {self._optimizer_name}"]
        where = self._samples.device.type
        return (
            f"{', '.join(parts)}; {samples} in the shape {self._shape}; operators as dispatched for {where}"
        )

    def __call__(self) -> None:
        """Run the step."""
        if self._optimizer is None:
            with torch.no_grad():
                self._network(self._samples)
            return
        self._optimizer.zero_grad()
        self._loss(_first_real(self._network(self._samples))).backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()

    def counted(self, memory: MemoryHierarchy) -> CountedWork:
        """Work of one step; one runs before, so that the optimiser's states exist."""
        with self._clear_errors():
            self()
            with WorkCounter(memory) as counter:
                self()
        return counter.counted

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        """What torch or the network complains about, in one sentence with a next step."""
        try:
            yield
        except CalijouleError:
            raise
        except Exception as error:  # whatever the user's code raises
            kind = "real numbers" if self._vocabulary is None else f"integers below {self._vocabulary}"
            raise UsageError(
                f"The network does not run on {kind} in the shape {self._shape} ({in_one_line(error)}).",
                next_step="Say what one sample looks like: --input-shape 3,224,224, or for tokens"
                " --input-shape 128 --vocabulary 1000.",
            ) from error

    def _made_up_targets(self, output: Tensor) -> Tensor | None:
        """A class for every position, if the loss is a cross-entropy."""
        is_table = output.dim() == 2 or (self._vocabulary is not None and output.dim() > 2)
        if not is_table or output.shape[-1] < 2:
            return None
        return torch.arange(output.shape[:-1].numel(), device=output.device) % output.shape[-1]

    def _loss(self, output: Tensor) -> Tensor:
        if self._targets is not None:
            return nn.functional.cross_entropy(output.flatten(0, -2), self._targets)
        return output if output.dim() == 0 else output.square().mean()


def _dtype_of(network: nn.Module) -> torch.dtype:
    """Dtype of the network's first real parameter, which its samples must share."""
    dtypes = (parameter.dtype for parameter in network.parameters())
    return next((dtype for dtype in dtypes if dtype.is_floating_point), torch.float32)


def _first_real(output: object) -> Tensor:
    for leaf in tree_leaves(output):
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            return leaf
    raise UsageError(
        "The network returns no tensor of real numbers, so there is nothing to train.",
        next_step="Predict its forward pass alone, or give a network that returns one.",
    )
