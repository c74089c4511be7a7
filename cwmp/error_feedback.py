"""Error feedback: what was not sent is not lost, it is added to the next update.

    corrected = update + residual
    sent      = selection of corrected
    residual  = corrected − sent

(Stich, Cordonnier and Jaggi, "Sparsified SGD with Memory", NeurIPS 2018, algorithm 1; Karimireddy et al.,
"Error Feedback Fixes SignSGD", ICML 2019.) It surrounds any rule and knows none of them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from calibration_data import UsageError


class ErrorFeedback:
    """Memory of one client. All that was sent, plus the residual, is all that there was to send."""

    def __init__(self) -> None:
        self._residual: dict[str, Tensor] = {}

    def corrected(self, update: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The update plus the residual: what a rule selects from. The first residual is zero.

        Raises:
            UsageError: the tensors are not those of the residual.
        """
        if self._residual:
            _require_same(update, self._residual)
        return {
            name: value + self._residual[name] if self._residual else value.clone()
            for name, value in update.items()
        }

    def remember(self, corrected: Mapping[str, Tensor], sent: Mapping[str, Tensor]) -> None:
        """Keep what was not sent.

        Args:
            corrected: from ``corrected``.
            sent: what left, zero where nothing did; a value that was rounded on the way counts as rounded.

        Raises:
            UsageError: the tensors differ in name or shape.
        """
        _require_same(sent, corrected)
        self._residual = {name: (value - sent[name]).detach() for name, value in corrected.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """A copy of the residual by tensor name; empty before the first update."""
        return {name: value.clone() for name, value in self._residual.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from ``state_dict``.

        Raises:
            UsageError: a residual is not finite.
        """
        broken = [name for name, value in state.items() if not torch.isfinite(value).all()]
        if broken:
            raise UsageError(
                f"The residual of {', '.join(broken)} is not finite.",
                next_step="Go on from an earlier checkpoint.",
            )
        self._residual = {name: value.clone() for name, value in state.items()}


def _require_same(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> None:
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    wanted = {name: tuple(value.shape) for name, value in like.items()}
    if shapes != wanted:
        differing = next(iter(dict(shapes.items() ^ wanted.items())))
        raise UsageError(
            f"The tensor {differing} does not fit the residual of error feedback.",
            next_step="Use one ErrorFeedback per client and network.",
        )
