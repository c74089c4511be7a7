"""What ``calijoule predict`` does: build a network, count one step of it, price it, and ask a device."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from calibration_data import UsageError
from cost_models import CostModel
from cwmp.networks import load_network, sample_shape_of
from cwmp.prediction.energy import Prediction, predict
from cwmp.prediction.training_step import OptimizerName, TrainingStep
from cwmp.pricing import device_of
from cwmp.training.phase_meter import Seen, phase_meter
from profiler.device import Device

SHORTEST_WINDOW_S = {"measured": 1.0, "simulated": 60.0}
"""Of the device's own account: operators draw unequal power, so a window must see them all many times."""


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """Which step.

    Attributes:
        network: a name in ``cwmp.networks``, or ``module:factory``.
        input_shape: of one sample; None for what a network of the package takes by default.
        batch_size: samples of a step.
        optimizer: None for the forward pass alone.
        vocabulary: samples are integers below this; None for real numbers.
        depth: levels of modules that are layers of their own; None for all.
    """

    network: str
    input_shape: tuple[int, ...] | None
    batch_size: int
    optimizer: OptimizerName | None
    vocabulary: int | None
    depth: int | None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What is known of a step.

    Attributes:
        step: which it is, in words.
        prediction: its joules.
        seen: what a device accounts for it; None if none was asked.
    """

    step: str
    prediction: Prediction
    seen: Seen | None


def predict_network(settings: StepSettings, model: CostModel, device: Device | None) -> Answer:
    """Predicted joules of one step, and what a device accounts for it.

    Args:
        settings: which step.
        model: costs of elementary operations.
        device: runs the step (a simulated one its counted work) under its sensors; None asks nobody.

    Raises:
        UnknownMemoryError: the model does not describe a device.
        UsageError: there is no such network, or it does not take such samples.
    """
    fingerprint = device_of(model)
    network = load_network(settings.network, sample_shape=settings.input_shape)
    step = TrainingStep(
        network,
        input_shape=_input_shape(settings),
        batch_size=settings.batch_size,
        optimizer=settings.optimizer,
        vocabulary=settings.vocabulary,
        device="cuda" if fingerprint.kind == "cuda" and torch.cuda.is_available() else "cpu",
    )
    counted = step.counted(fingerprint.memory)
    prediction = predict(counted, model, depth=settings.depth)
    if device is None:
        return Answer(step=step.description, prediction=prediction, seen=None)
    meter = phase_meter(device, seed=0, window_s=SHORTEST_WINDOW_S[device.provenance])
    _, see = meter.run(step)
    seen = see([item.work * item.calls for item in counted.calls])
    return Answer(step=step.description, prediction=prediction, seen=seen)


def _input_shape(settings: StepSettings) -> tuple[int, ...]:
    if settings.input_shape is not None:
        return settings.input_shape
    shape = sample_shape_of(settings.network)
    if shape is not None:
        return shape
    raise UsageError(
        f"It is not known what {settings.network} takes.",
        next_step="Say what one sample looks like: --input-shape 3,224,224, or for tokens"
        " --input-shape 128 --vocabulary 1000.",
    )
