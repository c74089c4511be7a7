"""Shares training samples out to clients, unevenly by class.

The convention of NIID-Bench (Li et al., "Federated Learning on Non-IID Data Silos", ICDE 2022, its
``utils.partition_data``): for each class, shuffle its samples, draw p ~ Dirichlet(α) over the clients, set p
to zero for clients that already hold n/clients samples, renormalise, and cut the class by p. All of it is
drawn again until every client has the minimum. "Dirichlet(0.3)" alone is no specification, so the scheme,
its numbers and a digest of the index lists go into the record of a run.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration_data import UsageError

SCHEME = "dirichlet-by-class/niid-bench"
MAX_DRAWS = 1000


@dataclass(frozen=True, kw_only=True)
class Partition:
    """Which client holds which training samples.

    Attributes:
        scheme: name of the convention.
        alpha: Dirichlet concentration.
        min_samples: least number of samples of a client.
        seed: of the draw.
        indices: sorted sample indices of each client, int64; disjoint, and complete together.
    """

    scheme: str
    alpha: float
    min_samples: int
    seed: int
    indices: tuple[NDArray[np.int64], ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Samples of each client."""
        return tuple(len(client) for client in self.indices)

    @property
    def sha256(self) -> str:
        """Digest of the index lists: little-endian int64, each client's count before its indices."""
        digest = hashlib.sha256()
        for client in self.indices:
            digest.update(len(client).to_bytes(8, "little"))
            digest.update(client.astype("<i8").tobytes())
        return digest.hexdigest()


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
    if clients * min_samples > len(labels):
        raise UsageError(
            f"{len(labels)} samples cannot give {clients} clients {min_samples} each.",
            next_step="Use fewer clients or a smaller min_client_samples.",
        )
    rng = np.random.default_rng(seed)
    for _ in range(MAX_DRAWS):
        indices = _draw(labels, clients, alpha, rng)
        if indices is not None and min(len(client) for client in indices) >= min_samples:
            return Partition(
                scheme=SCHEME, alpha=alpha, min_samples=min_samples, seed=seed, indices=tuple(indices)
            )
    raise UsageError(
        f"No Dirichlet({alpha:g}) partition in {MAX_DRAWS} draws gave each of {clients} clients"
        f" {min_samples} samples.",
        next_step="Use fewer clients, a larger alpha, or a smaller min_client_samples.",
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
