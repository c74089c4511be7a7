"""What the README shows runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cwmp.__main__ import app

README = (Path(__file__).resolve().parent.parent / "README.md").read_text()


def test_the_ten_lines_of_python_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0]
    exec(compile(code, "README.md", "exec"), {})
    kept, spent_j, retained = (float(word) for word in capsys.readouterr().out.splitlines()[-1].split())
    assert 0 < kept < 512 * 513
    assert 0 < spent_j <= 1e-4
    assert kept / (512 * 513) < retained < 1


def test_the_table_of_commands_is_complete() -> None:
    table = README.split("## Commands")[1].split("## Limits")[0].split("Exit codes")[0]
    shown = set(
        re.findall(r"`(?:calijoule )?([a-z]+)[ `]", "\n".join(re.findall(r"^\| .*? \|", table, re.M)))
    )
    commands = {
        command.name or command.callback.__name__ for command in app.registered_commands if command.callback
    }
    assert shown == commands
