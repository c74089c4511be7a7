"""The coding of indices, against a second decoder that is written bit by bit, and against entropy."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration_data import UsageError
from cwmp.index_coding import coded_bytes, decode_indices, encode_indices, most_coded_bytes
from cwmp.op_counts import GAPS_PER_BLOCK, index_bytes


def numbers(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def read_slowly(data: bytes, kept: int) -> list[int]:
    """The format as its docstring describes it, on a string of bits."""
    blocks = math.ceil(kept / 256)
    bits = "".join(f"{byte:08b}"[::-1] for byte in data[blocks:])
    found, before, place = [], -1, 0
    for index in range(kept):
        k = data[index // 256]
        end = bits.index("1", place)
        low = bits[end + 1 : end + 1 + k]
        before += ((end - place) << k) + int(low[::-1] or "0", 2) + 1
        found.append(before)
        place = end + 1 + k
    return found


@settings(deadline=None)  # kernels are compiled when first called
@given(st.sets(st.integers(0, 5000), max_size=700))
def test_what_is_written_is_read(chosen: set[int]) -> None:
    indices = numbers(*sorted(chosen))
    data = encode_indices(indices)
    assert decode_indices(data, indices.size, 5001).tolist() == indices.tolist()
    assert read_slowly(data, indices.size) == indices.tolist()
    assert coded_bytes(indices) == len(data) <= most_coded_bytes(5001)


@settings(deadline=None)
@given(st.sets(st.integers(0, 2**60), min_size=1, max_size=20))
def test_numbers_may_be_as_large_as_they_like(chosen: set[int]) -> None:
    indices = numbers(*sorted(chosen))
    data = encode_indices(indices)
    assert decode_indices(data, indices.size, int(indices[-1]) + 1).tolist() == indices.tolist()
    with pytest.raises(UsageError):
        decode_indices(data, indices.size, int(indices[-1]))


@pytest.mark.parametrize("density", [0.001, 0.01, 0.1, 0.3, 0.5, 0.9])
def test_codes_are_as_long_as_expected_and_close_to_entropy(density: float) -> None:
    kept = np.flatnonzero(np.random.default_rng(3).random(500_000) < density)
    bits = 8 * coded_bytes(kept) / kept.size
    assert bits == pytest.approx(8 * index_bytes("golomb", density), rel=0.02)
    p = kept.size / 500_000
    entropy = -math.log2(p) - (1 - p) / p * math.log2(1 - p)
    assert entropy - 0.05 < bits < entropy + (0.12 if density <= 0.5 else 1.0)


def test_blocks_follow_the_density() -> None:
    """Half of one tensor and a thousandth of another: one parameter for both would take twice the bits."""
    rng = np.random.default_rng(5)
    dense, sparse = np.flatnonzero(rng.random(4096) < 0.5), np.flatnonzero(rng.random(2_000_000) < 0.001)
    together = coded_bytes(np.concatenate([dense, 4096 + sparse]))
    alone = coded_bytes(dense) + coded_bytes(sparse)
    assert together == pytest.approx(alone, abs=60)


def test_every_parameter_is_the_best_of_all() -> None:
    indices = np.flatnonzero(np.random.default_rng(9).random(40_000) < 0.02)
    gaps = np.diff(indices, prepend=-1) - 1
    for block, parameter in enumerate(encode_indices(indices)[: math.ceil(indices.size / 256)]):
        part = gaps[GAPS_PER_BLOCK * block : GAPS_PER_BLOCK * (block + 1)]
        lengths = [int((part >> k).sum()) + part.size * (k + 1) for k in range(40)]
        assert lengths[parameter] == min(lengths)


@pytest.mark.parametrize("bad", [numbers(3, 3), numbers(4, 2), numbers(-1, 2)])
def test_only_ascending_numbers_can_be_written(bad: np.ndarray) -> None:
    with pytest.raises(UsageError, match="ascend"):
        encode_indices(bad)


@settings(deadline=None)
@given(st.binary(max_size=60), st.integers(0, 80), st.integers(1, 500))
def test_any_bytes_are_numbers_in_range_or_refused(data: bytes, kept: int, coordinates: int) -> None:
    try:
        indices = decode_indices(data, kept, coordinates)
    except UsageError:
        return
    assert indices.size == kept
    assert not kept or (indices[0] >= 0 and indices[-1] < coordinates)
    assert (np.diff(indices) > 0).all()
    assert read_slowly(data, kept) == indices.tolist()


def test_there_is_one_way_to_write_the_end() -> None:
    data = encode_indices(numbers(1, 5, 6))
    decode_indices(data, 3, 10)
    for wrong in (data + b"\0", data[:-1], bytes([*data[:-1], data[-1] | 0x80])):
        with pytest.raises(UsageError):
            decode_indices(wrong, 3, 10)
