import multiprocessing
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fakes import powercap_tree

from cwmp.flower.host import HostWindows, StartUp, alone_on_host, boot_id
from profiler.devices import open_device
from profiler.simulated_device import SimulatedDevice


def test_windows_are_what_the_counters_showed(tmp_path: Path) -> None:
    """Two packages and their DRAM are the total; a counter wraps meanwhile."""
    tree = powercap_tree.server(tmp_path / "powercap")
    tree.set_uj("package-1", tree.range_uj("package-1") - 1000)
    device = open_device("cpu", powercap_root=tree.root)
    windows = HostWindows(device)
    windows.open()
    time.sleep(0.01)
    tree.spend("package-0", 5000)
    tree.spend("package-1", 3000)
    seen = {window.domain: window for window in windows.close()}
    assert set(seen) == {"package-0", "package-1", "dram-0", "dram-1"}
    assert seen["package-0"].end_uj - seen["package-0"].start_uj == 5000
    assert seen["package-1"].end_uj == 2000
    assert seen["package-1"].range_uj == tree.range_uj("package-1")
    assert {window.host for window in seen.values()} == {boot_id()}
    assert all(0.01e9 < window.end_ns - window.start_ns < 60e9 for window in seen.values())


def test_a_window_in_which_a_counter_may_have_wrapped_has_no_joules(tmp_path: Path) -> None:
    """A counter of 1 mJ wraps within a microsecond at a kilowatt."""
    tree = powercap_tree.PowercapTree(tmp_path / "powercap")
    tree.add_zone("intel-rapl:0", "package-0", counter="package-0", range_uj=1000)
    windows = HostWindows(open_device("cpu", powercap_root=tree.root))
    windows.open()
    time.sleep(0.01)
    assert windows.close() == ()


def test_a_counter_that_cannot_be_read_costs_its_joules_alone(tmp_path: Path) -> None:
    tree = powercap_tree.amd(tmp_path / "powercap")
    device = open_device("cpu", powercap_root=tree.root)
    for edge in ("open", "close"):
        windows = HostWindows(device)
        tree.energy_file("package-0").write_text("" if edge == "open" else "5")
        windows.open()
        tree.energy_file("package-0").write_text("9" if edge == "open" else "")
        assert windows.close() == ()


def test_a_simulated_device_is_nobody_elses(quiet_server: SimulatedDevice) -> None:
    for device in (None, quiet_server):
        windows = HostWindows(device)
        windows.open()
        assert windows.close() == ()


def test_start_up_is_counted_once_in_a_process() -> None:
    started = StartUp()
    first = started.seconds()
    assert 0 < first < time.clock_gettime(time.CLOCK_BOOTTIME)
    assert started.seconds() == 0


def test_start_up_is_the_age_of_the_process() -> None:
    code = "import time; time.sleep(0.5); from cwmp.flower.host import StartUp; print(StartUp().seconds())"
    began = time.monotonic()
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0.5 <= float(out.stdout) <= time.monotonic() - began + 0.02


def _hold(root: Path, held: "multiprocessing.Queue[float]") -> None:
    with alone_on_host(open_device("cpu", powercap_root=root)):
        held.put(time.monotonic())
        time.sleep(0.3)
        held.put(time.monotonic())


def test_clients_that_measure_wait_for_each_other(tmp_path: Path) -> None:
    root = powercap_tree.amd(tmp_path / "powercap").root
    context = multiprocessing.get_context("spawn")
    held = context.Queue()
    others = [context.Process(target=_hold, args=(root, held)) for _ in range(2)]
    for other in others:
        other.start()
    edges = [held.get(timeout=60) for _ in range(4)]
    for other in others:
        other.join()
    # Whoever came first left before the other came: the edges arrive in pairs.
    assert edges == sorted(edges)
    assert edges[1] - edges[0] >= 0.3
    assert edges[3] - edges[2] >= 0.3


@pytest.mark.parametrize("simulated", [True, False])
def test_nobody_waits_without_shared_counters(simulated: bool, quiet_server: SimulatedDevice) -> None:
    with alone_on_host(quiet_server if simulated else None), alone_on_host(None):
        pass
