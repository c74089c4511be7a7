from pathlib import Path

import pytest
import torch

from calibration_data import UsageError
from cwmp.flower.residual_store import ResidualStore

RUN = "0123456789abcdef" * 2
LIKE = {"weight": torch.zeros(3, 2), "bias": torch.zeros(2)}


def residual(value: float) -> dict[str, torch.Tensor]:
    return {name: torch.full_like(tensor, value) for name, tensor in LIKE.items()}


def value_of(store: ResidualStore, round_index: int) -> float | None:
    found = store.after(round_index)
    return None if found is None else float(found["bias"][0])


def test_another_process_finds_it(tmp_path: Path) -> None:
    ResidualStore(tmp_path, RUN, 4, LIKE).keep(1, residual(0.5), used=0)
    later = ResidualStore(tmp_path, RUN, 4, LIKE)
    assert later.after(0) == {}
    assert value_of(later, 1) == 0.5


def test_clients_and_runs_stay_apart(tmp_path: Path) -> None:
    ResidualStore(tmp_path, RUN, 1, LIKE).keep(1, residual(1.0), used=0)
    ResidualStore(tmp_path, RUN, 11, LIKE).keep(1, residual(11.0), used=0)
    assert value_of(ResidualStore(tmp_path, RUN, 1, LIKE), 1) == 1.0
    assert ResidualStore(tmp_path, "f" * 32, 1, LIKE).after(1) is None
    assert ResidualStore(tmp_path, RUN, 2, LIKE).after(1) is None


def test_a_round_can_be_run_again_from_the_one_before(tmp_path: Path) -> None:
    """Rounds 1 and 2 were used, round 3 was run and its answer never counted."""
    store = ResidualStore(tmp_path, RUN, 0, LIKE)
    for number, used in ((1, 0), (2, 1), (3, 2)):
        store.keep(number, residual(number), used=used)
    assert value_of(store, 2) == 2.0
    store.keep(3, residual(33.0), used=2)
    assert value_of(store, 2) == 2.0
    assert value_of(store, 3) == 33.0
    assert store.after(1) is None


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"\x80\x02."])
def test_a_broken_file_is_a_lost_residual(tmp_path: Path, content: bytes) -> None:
    store = ResidualStore(tmp_path, RUN, 0, LIKE)
    store.keep(1, residual(1.0), used=0)
    (tmp_path / RUN / "0-1.pt").write_bytes(content)
    assert store.after(1) is None


def test_another_networks_residual_is_a_lost_one(tmp_path: Path) -> None:
    ResidualStore(tmp_path, RUN, 0, {"bias": torch.zeros(2)}).keep(1, {"bias": torch.ones(2)}, used=0)
    assert ResidualStore(tmp_path, RUN, 0, LIKE).after(1) is None


@pytest.mark.parametrize("run", ["", "../../etc", "0" * 31, "G" * 32, "0" * 32 + "\n"])
def test_a_server_cannot_name_another_folder(tmp_path: Path, run: str) -> None:
    with pytest.raises(UsageError):
        ResidualStore(tmp_path, run, 0, LIKE)
