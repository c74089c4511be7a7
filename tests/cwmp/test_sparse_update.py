import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from calibration_data import UsageError
from cwmp.op_counts import HEADER_BYTES
from cwmp.training.sparse_update import (
    SparseUpdate,
    add_to,
    average,
    decode,
    encode,
    flatten,
    pack,
    unflatten,
)


def message(indices: list[int] | None, values: list[float], coordinates: int) -> SparseUpdate:
    return SparseUpdate(
        indices=None if indices is None else torch.tensor(indices, dtype=torch.int32),
        values=torch.tensor(values),
        coordinates=coordinates,
    )


def test_coordinates_that_were_not_sent_count_as_zero() -> None:
    """By hand: weights 10 : 30 and three coordinates; the second is sent by one client alone."""
    first = message([0, 1], [4.0, 8.0], 3)
    second = message([0, 2], [2.0, -1.0], 3)
    mean = average([first, second], [10, 30], 3)
    assert mean.tolist() == [0.25 * 4 + 0.75 * 2, 0.25 * 8, 0.75 * -1]
    assert mean.dtype == torch.float64


def test_the_mean_is_summed_in_double_precision() -> None:
    big, small = message(None, [1e8], 1), message(None, [1.0], 1)
    assert average([big, small, small], [1, 1, 1], 1).item() == pytest.approx((1e8 + 2) / 3, abs=1e-6)


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=7, max_size=7), st.integers(0, 1000))
def test_packing_loses_nothing_that_is_kept(kept: list[bool], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    update = {"a": torch.randn(2, 2, generator=generator), "b": torch.randn(3, generator=generator)}
    mask = torch.tensor(kept)
    masks = {"a": mask[:4].view(2, 2), "b": mask[4:]}
    packed = pack(update, masks)
    dense = torch.zeros(7, dtype=torch.float64)
    add_to(dense, packed, 1.0)
    unpacked = unflatten(dense, update)
    for name, value in update.items():
        assert torch.equal(unpacked[name], (value * masks[name]).double())
    assert packed.payload_bytes == (28 if all(kept) else 8 * sum(kept))


def test_flat_order_is_that_of_the_network() -> None:
    tensors = {"b": torch.arange(4.0).view(2, 2), "a": torch.tensor([9.0])}
    assert flatten(tensors).tolist() == [0.0, 1.0, 2.0, 3.0, 9.0]


def test_indices_stay_exact_beyond_what_float32_can_count() -> None:
    count = 2**24 + 3
    mask = torch.zeros(count, dtype=torch.bool)
    mask[-1] = mask[-2] = True
    packed = pack({"w": torch.ones(count)}, {"w": mask})
    assert packed.indices is not None
    assert packed.indices.tolist() == [count - 2, count - 1]
    assert packed.indices.dtype == torch.int32


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (message([0, 3], [1.0, 1.0], 3), "out of range"),
        (message([-1, 1], [1.0, 1.0], 3), "out of range"),
        (message([1, 1], [1.0, 1.0], 3), "not strictly ascending"),
        (message([1, 2], [1.0, float("nan")], 3), "not finite"),
        (message([1, 2], [1.0], 3), "size"),
        (message([1], [1.0], 4), "size"),
        (message(None, [1.0, 2.0], 3), "size"),
    ],
)
def test_a_message_can_hold_anything_and_is_checked(bad: SparseUpdate, problem: str) -> None:
    total: Tensor = torch.zeros(3, dtype=torch.float64)
    with pytest.raises(UsageError, match=problem):
        add_to(total, bad, 1.0)
    assert not total.any()


def test_float_indices_are_refused() -> None:
    bad = SparseUpdate(indices=torch.tensor([1.0]), values=torch.ones(1), coordinates=3)
    with pytest.raises(UsageError, match="out of range"):
        add_to(torch.zeros(3, dtype=torch.float64), bad, 1.0)


def network(*sizes: int) -> dict[str, Tensor]:
    return {f"tensor{number}": torch.zeros(size) for number, size in enumerate(sizes)}


def some_message(coordinates: int = 1000, kept: int = 30, seed: int = 0) -> SparseUpdate:
    generator = torch.Generator().manual_seed(seed)
    indices = torch.randperm(coordinates, generator=generator)[:kept].sort().values
    values = torch.randn(kept, generator=generator)
    return SparseUpdate(indices=indices, values=values, coordinates=coordinates)


@settings(deadline=None)  # kernels are compiled when first called
@given(st.integers(1, 400), st.floats(0, 1), st.integers(0, 1000))
def test_a_message_arrives_as_it_was_sent(coordinates: int, share: float, seed: int) -> None:
    like = network(coordinates // 2, coordinates - coordinates // 2)
    mask = torch.rand(coordinates, generator=torch.Generator().manual_seed(seed)) < share
    update = {name: torch.randn_like(value) for name, value in like.items()}
    sent = pack(update, unflatten(mask, like))
    arrived = decode(encode(sent, like), like)
    assert torch.equal(arrived.values, sent.values)
    assert (arrived.indices is None) == (sent.indices is None) == bool(mask.all())
    if sent.indices is not None and arrived.indices is not None:
        assert torch.equal(arrived.indices, sent.indices.long())


def test_one_percent_of_half_a_million_takes_at_most_1_4_percent() -> None:
    like = network(500_000)
    dense = SparseUpdate(indices=None, values=torch.ones(500_000), coordinates=500_000)
    payload, everything = encode(some_message(500_000, 5000), like), encode(dense, like)
    assert len(everything) == HEADER_BYTES["golomb"] + 4 * 500_000
    assert len(payload) <= 0.014 * len(everything)
    index_bits = 8 * (len(payload) - HEADER_BYTES["golomb"] - 4 * 5000) / 5000
    assert index_bits <= 11


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        (encode(some_message(), network(999, 1)), "another network"),
        (encode(some_message(999), network(999)), "another network"),
        (encode(some_message(), network(1000))[:-1], "indices cannot be read"),
        (encode(some_message(), network(1000)) + b"x", "indices cannot be read"),
        (encode(some_message(), network(1000))[:20], "shorter than a header"),
        (b"PK" + encode(some_message(), network(1000))[2:], "does not begin as one"),
        (b"CJUP\x02" + encode(some_message(), network(1000))[5:], "of version 2, not 1"),
        (encode(some_message(), network(1000)) + bytes(9000), "no update of this network more than"),
    ],
)
def test_bytes_can_hold_anything_and_are_checked(payload: bytes, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        decode(payload, network(1000))


@pytest.mark.parametrize("kept", [2**62, 1001, 31])
def test_nothing_is_made_room_for_because_a_message_declares_it(kept: int) -> None:
    payload = bytearray(encode(some_message(), network(1000)))
    payload[16:24] = kept.to_bytes(8, "little")
    with pytest.raises(UsageError, match=r"size is not that of the network|indices cannot be read"):
        decode(bytes(payload), network(1000))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    bad = SparseUpdate(indices=torch.tensor([3]), values=torch.tensor([value]), coordinates=10)
    with pytest.raises(UsageError, match="not finite"):
        decode(encode(bad, network(10)), network(10))


@settings(deadline=None)
@given(st.data())
def test_bytes_that_were_changed_are_a_valid_update_or_refused(data: st.DataObject) -> None:
    like = network(1000)
    payload = bytearray(encode(some_message(seed=data.draw(st.integers(0, 50))), like))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    total = torch.zeros(1000, dtype=torch.float64)
    try:
        add_to(total, decode(bytes(payload), like), 1.0)
    except UsageError:
        assert not total.any()
    assert bool(torch.isfinite(total).all())
