import hashlib

import numpy as np
import pytest
from fakes.known_costs import known_cost_model
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration_data import UsageError
from cwmp.config import training_config
from cwmp.training.federation import build_federation
from cwmp.training.partition import Partition, dirichlet_partition, shards_partition
from cwmp.training.run import run_identity
from cwmp.training.run_record import PartitionReport


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


@given(
    labels=st.lists(st.integers(0, 9), min_size=40, max_size=200),
    clients=st.integers(1, 8),
    shards_per_client=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=40, deadline=None)
def test_shards_are_equal_pieces_in_the_order_of_the_classes(
    labels: list[int], clients: int, shards_per_client: int, seed: int
) -> None:
    classes = np.array(labels)
    partition = shards_partition(
        classes, clients=clients, shards_per_client=shards_per_client, min_samples=1, seed=seed
    )
    assert np.array_equal(np.sort(np.concatenate(partition.indices)), np.arange(len(labels)))
    assert max(partition.sizes) - min(partition.sizes) <= shards_per_client
    # Each client's samples are few runs in the sorted order: one for each shard, or fewer where they touch.
    place = np.empty(len(labels), np.int64)
    place[np.argsort(classes, kind="stable")] = np.arange(len(labels))
    for client in partition.indices:
        runs = 1 + int((np.diff(np.sort(place[client])) > 1).sum())
        assert runs <= shards_per_client


def test_two_shards_of_mcmahan_hold_at_most_two_classes_and_are_dealt_by_the_seed() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 200))

    def deal(seed: int) -> Partition:
        return shards_partition(labels, clients=50, shards_per_client=2, min_samples=10, seed=seed)

    partition = deal(3)
    assert partition.sizes == (40,) * 50
    counts = partition.class_counts(labels, 10)
    assert (counts > 0).sum(axis=1).max() == 2
    assert set(counts[counts > 0]) == {20, 40}
    assert partition.sha256 == deal(3).sha256 != deal(4).sha256


def test_shards_that_are_too_small_are_refused() -> None:
    labels = np.arange(60) % 4
    with pytest.raises(UsageError, match="60 samples cannot give 8 clients 10 each"):
        shards_partition(labels, clients=8, shards_per_client=2, min_samples=10, seed=0)
    with pytest.raises(UsageError, match="60 samples cannot give 8 clients 9 each"):
        shards_partition(labels, clients=8, shards_per_client=9, min_samples=1, seed=0)
    # Ten pieces of six or seven samples: some client gets fewer than 15 in two.
    with pytest.raises(UsageError, match="Shards give a client 12 samples, fewer than the minimum of 13"):
        shards_partition(
            np.arange(65) % 4, clients=5, shards_per_client=2, min_samples=13, seed=unlucky_deal()
        )


def unlucky_deal() -> int:
    """A seed at which two pieces of six samples meet; the first five of ten pieces have seven."""
    return next(
        seed
        for seed in range(100)
        if any((hand >= 5).all() for hand in np.random.default_rng(seed).permutation(10).reshape(5, 2))
    )


def test_clients_without_samples_are_refused_by_number() -> None:
    indices = tuple(np.arange(size) for size in (3, 0, 2, 0))
    with pytest.raises(UsageError, match="Without samples: client 1, 3"):
        Partition(scheme="", balancing="equal-shards", min_samples=1, seed=0, indices=indices)


@pytest.mark.parametrize("scheme", ["dirichlet", "shards"])
def test_the_record_of_a_run_says_how_the_samples_were_shared_out(scheme: str) -> None:
    model = known_cost_model()
    config = training_config(selector="dense", partition=scheme, clients=6, shards_per_client=3, alpha=0.7)
    federation = build_federation(config, model)
    report = run_identity(federation, model, None).partition
    labels = federation.data.train_y.numpy()
    for client, counts in zip(federation.partition.indices, report.class_counts, strict=True):
        assert counts == tuple(int((labels[client] == label).sum()) for label in range(10))
    assert report.sizes == tuple(sum(counts) for counts in report.class_counts)
    if scheme == "shards":
        assert (report.alpha, report.shards_per_client) == (None, 3)
        assert (report.scheme, report.balancing) == ("shards-by-class/mcmahan-2017", "equal-shards")
    else:
        assert (report.alpha, report.shards_per_client) == (0.7, None)
        assert report.balancing == "no-class-for-full-clients"


def test_a_record_from_before_class_counts_were_kept_is_read() -> None:
    old = {
        "scheme": "dirichlet-by-class/niid-bench",
        "alpha": 0.3,
        "min_samples": 10,
        "seed": 1,
        "sizes": [12, 30],
        "sha256": "0" * 64,
    }
    report = PartitionReport.model_validate(old)
    assert report.class_counts == ()
    assert report.balancing == "no-class-for-full-clients"
