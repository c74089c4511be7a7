"""Work shared among threads: each item once, in order, at the same time, and with its errors."""

import os
import threading

import pytest
import torch

from cwmp.selection import select, threads
from cwmp.selection.threads import in_threads


@pytest.fixture(params=["openmp", "own threads"])
def either_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "own threads":
        monkeypatch.setattr(threads, "_PARALLEL", None)
    elif threads._PARALLEL is None:
        pytest.skip("torch has no OpenMP runtime here")


@pytest.mark.usefixtures("either_kind")
class TestEitherKind:
    @pytest.mark.parametrize("count", [0, 1, 2, 7, 100])
    @pytest.mark.parametrize("number", [1, 2, 3])
    def test_each_item_is_worked_on_once_and_answered_in_order(self, count: int, number: int) -> None:
        seen: list[int] = []

        def square(item: int) -> int:
            seen.append(item)
            return item * item

        assert in_threads(square, range(count), number) == [item * item for item in range(count)]
        assert sorted(seen) == list(range(count))

    def test_two_threads_work_at_the_same_time(self) -> None:
        both = threading.Barrier(2)
        assert sorted(in_threads(lambda _: both.wait(timeout=30), [None, None], 2)) == [0, 1]

    def test_an_error_is_raised_where_it_was_asked_for(self) -> None:
        def work(item: int) -> int:
            if item == 3:
                raise KeyError("three")
            return item

        with pytest.raises(KeyError, match="three"):
            in_threads(work, range(1000), 2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_selects_what_its_parent_does() -> None:
    gradients = {"w": torch.randn(5_000_000, generator=torch.Generator().manual_seed(0))}

    def threshold() -> float | None:
        return select(gradients, {"w": 1.0}, 1e5, rule="cwmp", threads=2).threshold

    expected = threshold()
    child = os.fork()
    if not child:
        os._exit(0 if threshold() == expected else 1)
    assert os.waitpid(child, 0)[1] == 0
