"""Shares training samples out to clients, unevenly by class.

``dirichlet``: the convention of NIID-Bench (Li et al., "Federated Learning on Non-IID Data Silos", ICDE 2022,
its ``utils.partition_data``): for each class, shuffle its samples, draw p ~ Dirichlet(α) over the clients,
set p to zero for clients that already hold n/clients samples, renormalise, and cut the class by p. All of it
is drawn again until every client has the minimum.

``shards``: McMahan et al. (AISTATS 2017, section 3): sort the samples by class, cut them into as many equal
shards as all clients hold together, and deal the shards out at random.

"Dirichlet(0.3)" alone is no specification, so the scheme, its numbers, how sizes are balanced and a digest of
the index lists go into the record of a run.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from calibration_data import UsageError
from cwmp.config import TrainingConfig
from cwmp.seeding import derived_seed

DIRICHLET_SCHEME = "dirichlet-by-class/niid-bench"
SHARDS_SCHEME = "shards-by-class/mcmahan-2017"
MAX_DRAWS = 1000

Balancing = Literal["no-class-for-full-clients", "equal-shards"]
"""What keeps sizes together: a client with n/clients samples gets none of the classes that follow, or all
shards are equal to one sample."""


@dataclass(frozen=True, kw_only=True)
class Partition:
    """Which client holds which training samples.

    Attributes:
        scheme: name of the convention.
        balancing: what keeps the clients' sizes together.
        alpha: Dirichlet concentration; None for shards.
        shards_per_client: None for Dirichlet.
        min_samples: least number of samples of a client.
        seed: of the draw.
        indices: sorted sample indices of each client, int64; disjoint, and complete together.

    Raises:
        UsageError: a client has no samples.
    """

    scheme: str
    balancing: Balancing
    alpha: float | None = None
    shards_per_client: int | None = None
    min_samples: int
    seed: int
    indices: tuple[NDArray[np.int64], ...]

    def __post_init__(self) -> None:
        empty = [str(client) for client, size in enumerate(self.sizes) if size == 0]
        if empty:
            raise UsageError(
                f"Without samples: client {', '.join(empty)}.",
                next_step="Use fewer clients, or a min_client_samples of at least 1.",
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Samples of each client."""
        return tuple(len(client) for client in self.indices)

    def class_counts(self, labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
        """Samples of each class that each client holds, shape (n_clients, classes)."""
        return np.stack([np.bincount(labels[client], minlength=classes) for client in self.indices])

    @property
    def sha256(self) -> str:
        """Digest of the index lists: little-endian int64, each client's count before its indices."""
        digest = hashlib.sha256()
        for client in self.indices:
            digest.update(len(client).to_bytes(8, "little"))
            digest.update(client.astype("<i8").tobytes())
        return digest.hexdigest()


def configured_partition(config: TrainingConfig, labels: NDArray[np.int64]) -> Partition:
    """The partition of a run.

    Args:
        config: names the scheme and its numbers.
        labels: class of each training sample, shape (n_samples,).

    Raises:
        UsageError: the samples cannot be shared out like that.
    """
    clients, least = config.clients, config.min_client_samples
    seed = derived_seed(config.seed, "partition")
    if config.partition == "shards":
        return shards_partition(
            labels,
            clients=clients,
            shards_per_client=config.shards_per_client,
            min_samples=least,
            seed=seed,
        )
    return dirichlet_partition(labels, clients=clients, alpha=config.alpha, min_samples=least, seed=seed)


def dirichlet_partition(
    labels: NDArray[np.int64], *, clients: int, alpha: float, min_samples: int, seed: int
) -> Partition:
    """Share samples out by class.

    Args:
        labels: class of each sample, shape (n_samples,).
        clients: number of clients.
        alpha: Dirichlet concentration, > 0.
        min_samples: least number of samples of each client, ≥ 1.
        seed: of the draw.

    Raises:
        UsageError: there are too few samples, or no draw gave every client enough of them.
    """
    _check_enough(labels, clients, min_samples)
    rng = np.random.default_rng(seed)
    for _ in range(MAX_DRAWS):
        indices = _draw(labels, clients, alpha, rng)
        if indices is not None and min(len(client) for client in indices) >= min_samples:
            return Partition(
                scheme=DIRICHLET_SCHEME,
                balancing="no-class-for-full-clients",
                alpha=alpha,
                min_samples=min_samples,
                seed=seed,
                indices=tuple(indices),
            )
    raise UsageError(
        f"No Dirichlet({alpha:g}) partition in {MAX_DRAWS} draws gave each of {clients} clients"
        f" {min_samples} samples.",
        next_step="Use fewer clients, a larger alpha, or a smaller min_client_samples.",
    )


def shards_partition(
    labels: NDArray[np.int64], *, clients: int, shards_per_client: int, min_samples: int, seed: int
) -> Partition:
    """Deal out equal pieces of the samples in the order of their classes.

    Args:
        labels: class of each sample, shape (n_samples,).
        clients: number of clients.
        shards_per_client: shards that each client gets, ≥ 1.
        min_samples: least number of samples of each client, ≥ 1.
        seed: of the dealing.

    Raises:
        UsageError: there are too few samples for so many shards, or for the minimum.
    """
    _check_enough(labels, clients, max(min_samples, shards_per_client))
    shards = np.array_split(np.argsort(labels, kind="stable"), clients * shards_per_client)
    dealt = np.random.default_rng(seed).permutation(len(shards)).reshape(clients, shards_per_client)
    indices = tuple(np.sort(np.concatenate([shards[shard] for shard in hand])) for hand in dealt)
    smallest = min(len(client) for client in indices)
    if smallest < min_samples:
        raise UsageError(
            f"Shards give a client {smallest} samples, fewer than the minimum of {min_samples}.",
            next_step="Use fewer clients or a smaller min_client_samples.",
        )
    return Partition(
        scheme=SHARDS_SCHEME,
        balancing="equal-shards",
        shards_per_client=shards_per_client,
        min_samples=min_samples,
        seed=seed,
        indices=indices,
    )


def _check_enough(labels: NDArray[np.int64], clients: int, each: int) -> None:
    if clients * each > len(labels):
        raise UsageError(
            f"{len(labels)} samples cannot give {clients} clients {each} each.",
            next_step="Use fewer clients or a smaller min_client_samples.",
        )


def _draw(
    labels: NDArray[np.int64], clients: int, alpha: float, rng: np.random.Generator
) -> list[NDArray[np.int64]] | None:
    """One draw; None where all of a class would go to clients that are full already."""
    held: list[list[NDArray[np.int64]]] = [[] for _ in range(clients)]
    sizes = np.zeros(clients)
    for label in np.unique(labels):
        samples = rng.permutation(np.flatnonzero(labels == label))
        share = rng.dirichlet(np.full(clients, alpha)) * (sizes < len(labels) / clients)
        if not share.sum() > 0:
            return None
        cuts = (np.cumsum(share / share.sum())[:-1] * len(samples)).astype(np.int64)
        for client, part in enumerate(np.split(samples, cuts)):
            held[client].append(part)
            sizes[client] += len(part)
    return [np.sort(np.concatenate(parts)) for parts in held]
