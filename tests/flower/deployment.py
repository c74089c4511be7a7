"""A SuperLink and its SuperNodes as processes on the loopback, as ``docs/flower.md`` starts them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAMS = Path(sys.executable).parent


class Deployment:
    """Starts programs of Flower in a folder and ends those that it has started.

    Args:
        folder: for their logs and Flower's own files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        self.port = free_port()
        self._started: list[subprocess.Popen[bytes]] = []
        self.environment = {
            **os.environ,
            "FLWR_HOME": str(self.home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "PATH": os.pathsep.join([str(PROGRAMS), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }

    def super_link(self, *options: str) -> None:
        """Start the SuperLink and wait until it listens."""
        command = ["flower-superlink", *options, "--host", "127.0.0.1", "--port", str(self.port)]
        process = self.start("superlink", [*command, "--disable-runtime-dependency-installation"])
        deadline = time.monotonic() + 60
        while not listens(self.port):
            assert process.poll() is None, self.log("superlink")
            assert time.monotonic() < deadline, self.log("superlink")
            time.sleep(0.1)

    def super_node(self, name: str, node_config: str, *options: str) -> subprocess.Popen[bytes]:
        """Start a SuperNode."""
        command = ["flower-supernode", *options, "--superlink", f"127.0.0.1:{self.port}"]
        command += ["--host", "127.0.0.1", "--port", str(free_port()), "--node-config", node_config]
        return self.start(name, command)

    def connection(self, *lines: str) -> None:
        """Write the entry of Flower's config.toml by which the run finds the SuperLink."""
        text = [f'[superlink.ours]\naddress = "127.0.0.1:{self.port}"', *lines]
        (self.home / "config.toml").write_text("\n".join(text) + "\n")

    def train(self, *options: str) -> subprocess.Popen[bytes]:
        """Start ``calijoule train`` on the SuperLink."""
        command = [sys.executable, "-m", "cwmp", "train", "--engine", "flower", "--superlink", "ours"]
        return self.start("train", [*command, *options])

    def start(self, name: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start a program in a session of its own; what it prints goes into a file of that name."""
        with open(self.folder / f"{name}.log", "ab") as log:
            process = subprocess.Popen(
                command,
                env=self.environment,
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def log(self, name: str) -> str:
        """What a program has printed so far."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def end(self) -> None:
        """End everything, the last started first."""
        for process in reversed(self._started):
            kill(process, signal.SIGTERM)
        for process in reversed(self._started):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                kill(process)
                process.wait()


def kill(process: subprocess.Popen[bytes], request: signal.Signals = signal.SIGKILL) -> None:
    """A signal to a program and all that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, request)


def wait_for_lines(path: Path, lines: int, process: subprocess.Popen[bytes], timeout_s: float) -> None:
    """Wait until a file has so many lines, while a program runs."""
    deadline = time.monotonic() + timeout_s
    while not path.exists() or path.read_bytes().count(b"\n") < lines:
        assert process.poll() is None, f"ended with {process.returncode} before {path.name} had {lines} lines"
        assert time.monotonic() < deadline, f"{path.name} has not {lines} lines after {timeout_s} s"
        time.sleep(0.1)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
