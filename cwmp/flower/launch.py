"""How Flower's programs are started and ended: all of their command lines, and nothing else.

    simulation    a SuperLink of our own on a free port of the loopback, ``flwr run``, and its end
    deployment    ``flwr run`` on a SuperLink that somebody has started

Every one of them runs without telemetry and look-ups on the network, and installs nothing: the app has no
dependencies, and calijoule is installed wherever it runs.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

from calibration_data import CalijouleError, UsageError
from calibration_data.files import write_whole

CONNECTION = "calijoule"
INSTALL = "In the checkout: pip install -c constraints.txt '.[flower]'"
COMPLETED = "finished:completed"
STARTED = re.compile(r"started run (\d+)")
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
    with _ended_by_signals(), _super_link(home) as address:
        _connect(home, address)
        size = f"num-supernodes={clients} client-resources-num-cpus=1 init-args-num-cpus={at_once}"
        command = ["flwr", "run", str(app), CONNECTION, "--federation-config", size, "--stream"]
        _follow(command, _environment(home), say)


def deploy(app: Path, connection: str, *, say: Callable[[str], None]) -> None:
    """Run an app on a SuperLink that is running, and wait for its end.

    Args:
        app: folder with the app's pyproject.toml.
        connection: name of the SuperLink in Flower's own config.toml.
        say: gets what the programs print, line by line.

    Raises:
        FlowerError: the run could not be started, could not be followed to its end, or failed.
    """
    started: list[str] = []

    def hear(line: str) -> None:
        found = STARTED.search(line)
        started.extend(found.groups() if found else ())
        say(line)

    _follow(["flwr", "run", str(app), connection, "--stream"], _environment(None), hear)
    status = _status(started[0], connection) if started else "not started"
    if status != COMPLETED:
        raise FlowerError(f"The run is {status}.", next_step="Look at what Flower printed above.")


def _status(run: str, connection: str) -> str:
    """What the SuperLink says of a run."""
    command = ["flwr", "list", connection, "--run-id", run, "--format", "json"]
    listed = subprocess.run(command, env=_environment(None), capture_output=True, text=True, check=False)
    try:
        return str(json.loads(listed.stdout)["runs"][0]["status"])
    except (ValueError, LookupError, TypeError):
        return "not known to the SuperLink"


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM end what was started, as an interrupt from the keyboard does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _super_link(home: Path) -> Iterator[str]:
    """A SuperLink of our own; it and all that it has started are ended."""
    port = _free_port()
    command = ["flower-superlink", "--insecure", "--simulation", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--disable-runtime-dependency-installation"]
    log_file = home / "superlink.log"
    with open(log_file, "wb") as log:
        process = subprocess.Popen(
            command,
            env=_environment(home),
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
    try:
        _wait_until_ready(process, port, log_file)
        yield f"127.0.0.1:{port}"
    finally:
        end(process)


def _end_with_parent() -> None:
    """A killed command cannot end its SuperLink any more, so the kernel does: prctl(2), PR_SET_PDEATHSIG."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


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


def end(process: subprocess.Popen[bytes], *, patience_s: float = END_S) -> None:
    """End a program that we have started and all that come from it; they have sessions of their own.

    Args:
        process: the program.
        patience_s: how long they may take to end by themselves.
    """
    family = _family(process.pid)
    for request in (signal.SIGTERM, signal.SIGKILL):
        for member in filter(lives, family):
            with suppress(ProcessLookupError):
                os.kill(member, request)
        deadline = time.monotonic() + patience_s
        while any(map(lives, family)) and time.monotonic() < deadline:
            process.poll()
            time.sleep(0.05)
    process.wait()


def _family(ancestor: int) -> list[int]:
    """A process, its children, theirs, and so on."""
    children: dict[int, list[int]] = defaultdict(list)
    for folder in Path("/proc").glob("[0-9]*"):
        if (state := _state(int(folder.name))) is not None:
            children[state[1]].append(int(folder.name))
    family = [ancestor]
    for member in family:
        family += children[member]
    return family


def lives(process: int) -> bool:
    """Whether a process has not ended."""
    state = _state(process)
    return state is not None and state[0] not in "ZX"


def _state(process: int) -> tuple[str, int] | None:
    """State and parent of a process, from proc(5)'s stat; None if it is gone."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[1])


def _connect(home: Path, address: str) -> None:
    connection = f'[superlink.{CONNECTION}]\naddress = "{address}"\ninsecure = true\n'
    write_whole(home / "config.toml", f'[superlink]\ndefault = "{CONNECTION}"\n\n{connection}')


def _follow(command: Sequence[str], environment: dict[str, str], say: Callable[[str], None]) -> None:
    """Run a program to its end and hand on what it prints."""
    last = ""
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                last = line.strip("│ \n") if any(map(str.isalpha, line)) else last
                say(line.rstrip("\n"))
        except BaseException:
            process.terminate()
            raise
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
