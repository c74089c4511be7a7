"""What a training run is: one frozen type, from keyword arguments or from a TOML file.

Unknown keys are errors, and nothing is read from the environment.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from calibration_data import InvalidFileError, UsageError
from calibration_data.files import Frozen, describe_validation_error, read_bounded

RuleName = Literal["cwmp", "cwmp-l1", "cwmp-block", "topk", "randomk", "threshold", "dense"]
"""Selection rules, described in ``cwmp.selection.rules``; ``dense`` keeps everything and knows no budget."""

MAX_CONFIG_BYTES = 1_000_000


class TrainingConfig(Frozen):
    """One federated training run.

    Attributes:
        dataset: ``digits`` (scikit-learn's 8x8 images), ``cifar10``, or ``synthetic`` (Gaussian blobs).
        data_dir: folder of ``cifar10``: the official python batches, or class folders of images.
        train_samples: most training samples to use, evenly by class; all without it.
        test_samples: most test samples to use, evenly by class; all without it.
        clients: number of clients that share the training samples.
        partition: how they share them: ``dirichlet`` by class, or ``shards`` of samples sorted by class.
        alpha: Dirichlet concentration of the classes over the clients; smaller is more uneven.
        shards_per_client: of the partition ``shards``.
        min_client_samples: the partition is drawn again until every client has as many.
        participation: fraction of the clients that train in a round, at least one.
        rounds: federated rounds.
        local_epochs: passes of a client over its samples in one round.
        batch_size: samples of one local step; the last step of an epoch may be shorter.
        learning_rate: of the local SGD.
        momentum: of the local SGD; its velocity starts at zero in each round.
        server_optimizer: how the mean update is applied: ``sgd`` (FedAvg), ``momentum`` (FedAvgM)
            or ``adam`` (FedAdam, Reddi et al. 2021).
        server_learning_rate: of the server's optimiser.
        server_momentum: β of ``momentum``, β₁ of ``adam``.
        server_tau: τ of ``adam``: larger is less adaptive.
        evaluate_every: rounds from one test to the next; the last round is always tested.
        network: a name in ``cwmp.networks``, or ``module:factory`` of your own.
        selector: rule that chooses the coordinates that a client sends.
        at_least: smallest magnitude that the selector ``threshold`` keeps; it needs one.
        equal_prices: let the rule see one price for all coordinates; joules are booked as they are. An
            ablation, in which every rule that weighs by cost is Top-K.
        fleet: TOML file that gives clients other cost models and budgets; None: all are alike.
        budget_j: joules of one client and round for what comes after backprop (fixed + marginal).
        budget_fraction: or the fixed joules and this fraction of the others that keeping everything takes; no
            selection saves the fixed ones.
        boundary: what the budget has to cover; ``update+uplink`` needs a ``link``.
        link: name of a literature link model, for ``update+uplink``.
        error_feedback: add what was not sent to the next round's update (Stich et al. 2018).
        confidence: probability that the true joules stay within the budget, as far as the cost model's
            uncertainty tells; 0.5 budgets the expectation.
        seed: of every random draw.
    """

    dataset: str = "digits"
    data_dir: str | None = None
    train_samples: PositiveInt | None = None
    test_samples: PositiveInt | None = None
    clients: Annotated[int, Field(ge=1, le=100_000)] = 10
    partition: Literal["dirichlet", "shards"] = "dirichlet"
    alpha: PositiveFloat = 0.3
    shards_per_client: PositiveInt = 2
    min_client_samples: PositiveInt = 10
    participation: Annotated[float, Field(gt=0, le=1)] = 1.0
    rounds: PositiveInt = 20
    local_epochs: PositiveInt = 2
    batch_size: PositiveInt = 32
    learning_rate: PositiveFloat = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    server_optimizer: Literal["sgd", "momentum", "adam"] = "sgd"
    server_learning_rate: PositiveFloat = 1.0
    server_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    server_tau: PositiveFloat = 1e-3
    evaluate_every: PositiveInt = 1
    network: str = "mlp"
    selector: RuleName = "cwmp"
    at_least: NonNegativeFloat | None = None
    equal_prices: bool = False
    fleet: str | None = None
    budget_j: PositiveFloat | None = None
    budget_fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    boundary: Literal["update", "update+uplink"] = "update"
    link: str | None = None
    error_feedback: bool = False
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.budget_j is not None and self.budget_fraction is not None:
            raise ValueError("budget_j and budget_fraction exclude each other")
        if self.selector != "dense" and self.budget_j is None and self.budget_fraction is None:
            raise ValueError(f"the rule {self.selector} needs budget_j or budget_fraction")
        if (self.selector == "threshold") != (self.at_least is not None):
            raise ValueError("at_least belongs to the selector threshold, which needs it")
        if self.boundary == "update+uplink" and self.link is None:
            raise ValueError("the boundary update+uplink needs a link")
        if self.boundary == "update" and self.link is not None:
            raise ValueError("a link is charged only inside the boundary update+uplink")
        return self


def training_config(**settings: Any) -> TrainingConfig:
    """A config from keyword arguments.

    Raises:
        UsageError: a setting is unknown, out of range, or contradicts another.
    """
    try:
        return TrainingConfig(**settings)
    except ValidationError as error:
        raise UsageError(
            f"The training settings are not valid: {describe_validation_error(error)}.",
            next_step=f"Settings are: {', '.join(TrainingConfig.model_fields)}.",
        ) from error


def load_training_config(path: Path, **overrides: Any) -> TrainingConfig:
    """A config from a TOML file, in which ``overrides`` replace single keys.

    Raises:
        InvalidFileError: the file cannot be read, is no TOML, or its settings are not valid.
    """
    data = read_bounded(path, MAX_CONFIG_BYTES)
    try:
        settings = tomllib.loads(data.decode())
        return TrainingConfig(**{**settings, **overrides})
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidFileError(path, f"is no TOML file ({error})") from error
    except ValidationError as error:
        raise InvalidFileError(path, describe_validation_error(error)) from error
