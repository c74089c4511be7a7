"""Drives the counters of a powercap tree in time, and breaks them.

A thread shows every counter's energy at ticks, which come early or late by some jitter, in whole steps of
the hardware's energy unit, and starts again at 0 at the counter's range.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from fakes.powercap_tree import PowercapTree

QUANTUM_UJ = 1e6 / 2**14


class PowercapDriver:
    """Constant power of some counters, while the ``with`` lasts.

    Args:
        tree: whose counters start where it has put them.
        power_w: by counter; a package's contains that of its parts. A counter that is not named stands still.
        tick_s: mean time between two updates.
        jitter: largest part of a tick by which an update comes early or late.
    """

    def __init__(
        self, tree: PowercapTree, power_w: Mapping[str, float], *, tick_s: float = 0.004, jitter: float = 0.2
    ) -> None:
        self._tree = tree
        self._power_w = dict(power_w)
        self._start_uj = {counter: tree.energy_uj(counter) for counter in power_w}
        self._tick_s = tick_s
        self._jitter = jitter
        self._rng = random.Random(7)
        self._stopped = threading.Event()
        self._frozen: set[str] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._start_s = time.monotonic()

    def stick(self, counter: str) -> None:
        """Let a counter stand still from here on."""
        self._frozen.add(counter)

    def reset(self, counter: str) -> None:
        """Let a counter start again at 0."""
        with self._lock:
            self._start_uj[counter] = -int(self._true_uj(counter, time.monotonic()) - self._start_uj[counter])

    def vanish(self, counter: str) -> None:
        """Take its file away."""
        with self._lock:
            self._frozen.add(counter)
            self._tree.energy_file(counter).unlink()

    def break_reads(self, counter: str) -> None:
        """Let every read of it fail: a folder stands where the file was."""
        self.vanish(counter)
        self._tree.energy_file(counter).mkdir()

    def repair(self, counter: str) -> None:
        """Undo ``vanish`` and ``break_reads``; the counter has gone on counting."""
        with self._lock:
            file = self._tree.energy_file(counter)
            if file.is_dir():
                file.rmdir()
            self._show(counter, file)
            self._frozen.discard(counter)

    def __enter__(self) -> PowercapDriver:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        tick = 0
        while True:
            tick += 1
            due_s = self._start_s + (tick + self._rng.uniform(-self._jitter, self._jitter)) * self._tick_s
            if self._stopped.wait(max(0.0, due_s - time.monotonic())):
                return
            with self._lock:
                for counter in self._power_w:
                    if counter not in self._frozen:
                        for folder in self._tree.folders(counter):
                            self._show(counter, folder / "energy_uj")

    def _true_uj(self, counter: str, time_s: float) -> float:
        return self._start_uj[counter] + self._power_w[counter] * 1e6 * (time_s - self._start_s)

    def _show(self, counter: str, file: Path) -> None:
        true_uj = self._true_uj(counter, time.monotonic())
        shown_uj = int(int(true_uj / QUANTUM_UJ) * QUANTUM_UJ) % self._tree.range_uj(counter)
        # One write of one width: a reader never finds the file empty or half written.
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.pwrite(descriptor, f"{shown_uj:<15d}\n".encode(), 0)
        finally:
            os.close(descriptor)
