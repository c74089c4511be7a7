"""How well ``calijoule predict`` foretells what devices that no fit has seen account for a training step.

Draws simulated devices as ``benchmarks/recovery.py`` does, profiles each with the quick plan, predicts one
step of several networks, and compares with the device's own account by its truth:

    python benchmarks/prediction.py --devices 20
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from torch import nn

from benchmarks.recovery import draw_device
from cost_models.fitting import fit_cost_model
from cwmp.networks import load_network
from cwmp.prediction import predict
from cwmp.prediction.training_step import TrainingStep
from profiler.campaign import run_campaign
from profiler.plan import make_plan
from profiler.simulated_device import SimulatedDevice
from profiler.simulated_spec import SimulatedDeviceSpec


def language_model() -> nn.Module:
    layer = nn.TransformerEncoderLayer(64, 4, 256, batch_first=True, dropout=0.0)
    return nn.Sequential(nn.Embedding(5000, 64), nn.TransformerEncoder(layer, 2), nn.Linear(64, 5000))


def separable() -> nn.Module:
    """Depthwise and pointwise convolutions."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, 2, 1),
        nn.BatchNorm2d(32),
        nn.ReLU6(),
        nn.Conv2d(32, 32, 3, 1, 1, groups=32),
        nn.Conv2d(32, 64, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def wide() -> nn.Module:
    """Larger than the caches."""
    return nn.Sequential(nn.Linear(1024, 4096), nn.GELU(), nn.Linear(4096, 1024))


STEPS: dict[str, Callable[[], TrainingStep]] = {
    "mlp": lambda: TrainingStep(load_network("mlp"), input_shape=(64,), batch_size=32, optimizer="sgd"),
    "cnn": lambda: TrainingStep(load_network("cnn"), input_shape=(64,), batch_size=32, optimizer="adam"),
    "language": lambda: TrainingStep(
        language_model(), input_shape=(32,), batch_size=8, optimizer="adamw", vocabulary=5000
    ),
    "separable": lambda: TrainingStep(
        separable(), input_shape=(3, 64, 64), batch_size=16, optimizer="momentum"
    ),
    "lstm": lambda: TrainingStep(
        nn.LSTM(32, 64, 2, batch_first=True), input_shape=(20, 32), batch_size=16, optimizer="adam"
    ),
    "wide": lambda: TrainingStep(wide(), input_shape=(1024,), batch_size=64, optimizer="adam"),
    "inference": lambda: TrainingStep(
        language_model(), input_shape=(32,), batch_size=8, optimizer=None, vocabulary=5000
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, default=20)
    parser.add_argument("--first", type=int, default=3000, help="seed of the first device")
    parser.add_argument("--noise", type=float, default=0.02)
    options = parser.parse_args()
    errors: dict[str, list[float]] = defaultdict(list)
    covered: dict[str, list[bool]] = defaultdict(list)
    specs = [
        SimulatedDeviceSpec.model_validate(draw_device(seed, noise_rel=options.noise))
        for seed in range(options.first, options.first + options.devices)
    ]
    # All drawn devices have the same caches, so that one count serves all.
    works = {name: make().counted(specs[0].memory) for name, make in STEPS.items()}
    for seed, spec in enumerate(specs, start=options.first):
        device = SimulatedDevice(spec, seed=seed)
        with tempfile.TemporaryDirectory() as folder:
            records = run_campaign(device, make_plan(device, "quick", seed=seed), Path(folder) / "r.jsonl")
        model = fit_cost_model(records, seed=seed)
        for name, counted in works.items():
            predicted = predict(counted, model).gross_j
            true_j = sum(device.true_energy_j(item.work * item.calls) for item in counted.calls)
            low, high = predicted.interval95
            for group in (name, f"{spec.memory.cores} cores", "all"):
                errors[group].append(abs(predicted.value / true_j - 1))
                covered[group].append(low <= true_j <= high)
    print(f"{'step':12s} {'median |err|':>13s} {'worst':>7s} {'coverage':>9s}")
    for name in [*STEPS, *sorted(set(errors) - set(STEPS))]:
        print(row(name, errors[name], covered[name]))


def row(name: str, errors: Sequence[float], covered: Sequence[bool]) -> str:
    return f"{name:12s} {median(errors):13.2%} {max(errors):7.2%} {sum(covered) / len(covered):9.1%}"


if __name__ == "__main__":
    main()
