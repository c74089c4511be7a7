"""Locks of folders, and what writers that were killed have left."""

import errno
import fcntl
import threading
from pathlib import Path

import pytest

from calibration_data import UsageError
from calibration_data.files import alone_in, remove_unfinished


def test_a_folder_is_waited_for_as_long_as_there_is_patience(tmp_path: Path) -> None:
    held, end = threading.Event(), threading.Event()

    def hold() -> None:
        with alone_in(tmp_path, other="", next_step=""):
            held.set()
            end.wait(30)

    first = threading.Thread(target=hold)
    first.start()
    assert held.wait(5)
    with (
        pytest.raises(UsageError, match="The second is there"),
        alone_in(tmp_path, other="The second is there", next_step=""),
    ):
        pass
    threading.Timer(0.1, end.set).start()
    with alone_in(tmp_path, other="", next_step="", patience_s=30):
        assert end.is_set()
    first.join()


def test_a_file_system_without_locks_keeps_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with alone_in(tmp_path, other="", next_step=""):
        pass


def test_only_what_was_left_of_this_file_is_removed(tmp_path: Path) -> None:
    for name in (".a.json.x1y2", "a.json", ".b.json.x1y2", ".ajson"):
        (tmp_path / name).write_text("")
    remove_unfinished(tmp_path / "a.json")
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", ".b.json.x1y2", ".ajson"}
