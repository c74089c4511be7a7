import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration_data import UsageError
from cwmp.training.partition import dirichlet_partition


@given(
    classes=st.integers(2, 10),
    per_class=st.integers(30, 60),
    clients=st.integers(1, 6),
    alpha=st.sampled_from([0.3, 1.0, 100.0]),
    min_samples=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=40, deadline=None)
def test_partition_is_disjoint_complete_and_large_enough(
    classes: int, per_class: int, clients: int, alpha: float, min_samples: int, seed: int
) -> None:
    labels = np.repeat(np.arange(classes), per_class)
    partition = dirichlet_partition(labels, clients=clients, alpha=alpha, min_samples=min_samples, seed=seed)
    joined = np.concatenate(partition.indices)
    assert np.array_equal(np.sort(joined), np.arange(len(labels)))
    assert min(partition.sizes) >= min_samples
    assert len(partition.indices) == clients


def test_a_partition_that_cannot_be_drawn_is_one_named_error() -> None:
    with pytest.raises(UsageError, match=r"No Dirichlet\(0.01\) partition"):
        dirichlet_partition(np.zeros(40, dtype=np.int64), clients=8, alpha=0.01, min_samples=4, seed=0)


def niid_bench(labels: np.ndarray, n_parties: int, beta: float, rng: np.random.Generator) -> list[list[int]]:
    """The loop of NIID-Bench, line by line."""
    batches: list[list[int]] = [[] for _ in range(n_parties)]
    n = len(labels)
    for k in range(labels.max() + 1):
        idx_k = rng.permutation(np.where(labels == k)[0])
        proportions = rng.dirichlet(np.repeat(beta, n_parties))
        proportions = np.array(
            [p * (len(b) < n / n_parties) for p, b in zip(proportions, batches, strict=True)]
        )
        proportions = proportions / proportions.sum()
        cuts = (np.cumsum(proportions) * len(idx_k)).astype(int)[:-1]
        batches = [b + part.tolist() for b, part in zip(batches, np.split(idx_k, cuts), strict=True)]
    return batches


def test_draw_is_the_one_of_niid_bench() -> None:
    labels = np.random.default_rng(0).integers(0, 10, 1437)
    ours = dirichlet_partition(labels, clients=10, alpha=0.3, min_samples=1, seed=11)
    rng = np.random.default_rng(11)
    theirs = niid_bench(labels, 10, 0.3, rng)
    while min(map(len, theirs)) < 1:
        theirs = niid_bench(labels, 10, 0.3, rng)
    assert [client.tolist() for client in ours.indices] == [sorted(client) for client in theirs]


def test_small_alpha_gives_clients_fewer_classes() -> None:
    labels = np.repeat(np.arange(10), 140)

    def classes_held(alpha: float) -> float:
        partition = dirichlet_partition(labels, clients=10, alpha=alpha, min_samples=10, seed=1)
        return float(np.mean([len(np.unique(labels[client])) for client in partition.indices]))

    assert classes_held(0.1) < classes_held(1.0) < classes_held(100.0)


def test_digest_names_the_index_lists() -> None:
    labels = np.repeat(np.arange(4), 50)

    def draw(seed: int) -> str:
        return dirichlet_partition(labels, clients=3, alpha=0.5, min_samples=5, seed=seed).sha256

    partition = dirichlet_partition(labels, clients=3, alpha=0.5, min_samples=5, seed=2)
    by_hand = b"".join(
        len(client).to_bytes(8, "little") + b"".join(int(i).to_bytes(8, "little") for i in client)
        for client in partition.indices
    )
    assert partition.sha256 == hashlib.sha256(by_hand).hexdigest()
    assert draw(2) == draw(2) != draw(3)


def test_too_few_samples_are_refused_before_drawing() -> None:
    with pytest.raises(UsageError, match="20 samples cannot give 5 clients 10 each"):
        dirichlet_partition(np.zeros(20, dtype=np.int64), clients=5, alpha=1.0, min_samples=10, seed=0)
