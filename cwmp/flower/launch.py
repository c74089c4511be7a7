"""How Flower's programs are started and ended: all of their command lines, and nothing else.

    simulation    a SuperLink of our own on a free port of the loopback, ``flwr run``, and its end
    deployment    ``flwr run`` on a SuperLink that somebody has started

Every one of them runs without telemetry and look-ups on the network, and installs nothing: the app has no
dependencies, and calijoule is installed wherever it runs.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from calibration_data import CalijouleError, UsageError
from calibration_data.files import write_whole

CONNECTION = "calijoule"
INSTALL = "pip install 'calijoule[flower]'"
START_S = 120.0
END_S = 15.0

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


class FlowerError(CalijouleError):
    """A program of Flower's ended before its work was done."""


def check_installed(*, simulation: bool) -> None:
    """Say what is missing.

    Raises:
        UsageError: flwr, or what its simulation needs, is not installed.
    """
    for module in ("flwr", "ray") if simulation else ("flwr",):
        if find_spec(module) is None:
            raise UsageError(
                f"The engine flower needs the extra flower: {module} is not installed.", next_step=INSTALL
            )


def simulate(app: Path, home: Path, *, clients: int, at_once: int, say: Callable[[str], None]) -> None:
    """Run an app with all of its clients on this machine.

    Args:
        app: folder with the app's pyproject.toml.
        home: folder for Flower's own files.
        clients: number of clients.
        at_once: how many of them may work at the same time.
        say: gets what the programs print, line by line.

    Raises:
        FlowerError: the SuperLink could not be started, or the run could not.
    """
    with _super_link(home) as address:
        _connect(home, address)
        size = f"num-supernodes={clients} client-resources-num-cpus=1 init-args-num-cpus={at_once}"
        command = ["flwr", "run", str(app), CONNECTION, "--federation-config", size, "--stream"]
        _follow(command, _environment(home), say)


def deploy(app: Path, connection: str, *, say: Callable[[str], None]) -> None:
    """Run an app on a SuperLink that is running.

    Args:
        app: folder with the app's pyproject.toml.
        connection: name of the SuperLink in Flower's own config.toml.
        say: gets what the programs print, line by line.

    Raises:
        FlowerError: the run could not be started.
    """
    _follow(["flwr", "run", str(app), connection, "--stream"], _environment(None), say)


@contextmanager
def _super_link(home: Path) -> Iterator[str]:
    """A SuperLink of our own; it and all that it has started are ended."""
    port = _free_port()
    command = ["flower-superlink", "--insecure", "--simulation", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--disable-runtime-dependency-installation"]
    log_file = home / "superlink.log"
    with open(log_file, "wb") as log:
        process = subprocess.Popen(
            command, env=_environment(home), stdout=log, stderr=log, start_new_session=True
        )
    try:
        _wait_until_ready(process, port, log_file)
        yield f"127.0.0.1:{port}"
    finally:
        _end(process)


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log_file: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    lines = log_file.read_text(errors="replace").strip().splitlines()
    raise FlowerError(
        f"Flower's SuperLink did not start: {lines[-1][:300] if lines else 'it said nothing'}.",
        next_step="Look whether flower-superlink starts by itself.",
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a program that we have started in a session of its own, and whatever it has left there."""
    for request in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, request)
        except ProcessLookupError:
            break
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _connect(home: Path, address: str) -> None:
    connection = f'[superlink.{CONNECTION}]\naddress = "{address}"\ninsecure = true\n'
    write_whole(home / "config.toml", f'[superlink]\ndefault = "{CONNECTION}"\n\n{connection}')


def _follow(command: Sequence[str], environment: dict[str, str], say: Callable[[str], None]) -> None:
    """Run a program to its end and hand on what it prints."""
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert process.stdout is not None
    last = ""
    try:
        for line in process.stdout:
            last = line.strip() or last
            say(line.rstrip("\n"))
        process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    if process.returncode:
        raise FlowerError(
            f"{' '.join(command[:2])} ended with code {process.returncode}: {last[:300]}.",
            next_step="Look at what it printed above.",
        )


def _environment(home: Path | None) -> dict[str, str]:
    """That of this process, quiet, with the programs beside this Python on its path."""
    programs = str(Path(sys.executable).parent)
    environment = {**os.environ, **QUIET, "PATH": os.pathsep.join([programs, os.environ.get("PATH", "")])}
    return environment if home is None else {**environment, "FLWR_HOME": str(home)}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
