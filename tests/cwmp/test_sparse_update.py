import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from calibration_data import UsageError
from cwmp.training.sparse_update import SparseUpdate, add_to, average, flatten, pack, unflatten


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
