"""How to let one group read energy counters: recipes for an administrator, never "run it as root".

A counter of joules leaks what a processor computes (CVE-2020-8694, the PLATYPUS side channel), which is why
the kernel shows it to its owner alone. Every recipe here therefore opens it to one group of trusted users.
"""

from __future__ import annotations

from pathlib import Path

GROUP = "rapl"
PARANOID_FILE = Path("/proc/sys/kernel/perf_event_paranoid")

CAVEAT = (
    "Energy counters are a side channel: who reads them can learn secrets that other users' programs compute"
    " (CVE-2020-8694). Let one group of people whom you trust read them, not everyone."
)

POWERCAP_REMEDY = (
    "Let one group read the counters, not everyone (they leak what a processor computes, CVE-2020-8694):"
    f" sudo groupadd --system {GROUP} && sudo usermod -aG {GROUP} $USER, then put into"
    " /etc/udev/rules.d/70-rapl.rules the line"
    ' SUBSYSTEM=="powercap", KERNEL=="intel-rapl*",'
    f' RUN+="/bin/chgrp {GROUP} /sys%p/energy_uj /sys%p/max_energy_range_uj",'
    ' RUN+="/bin/chmod g+r /sys%p/energy_uj /sys%p/max_energy_range_uj"'
    " and run: sudo udevadm control --reload && sudo udevadm trigger -s powercap -c add; log in again."
    " As files: calijoule devices --recipe."
)

PERF_REMEDY = (
    "Give CAP_PERFMON to a copy of the interpreter that one group may run (calijoule devices --recipe prints"
    " the commands), or lower kernel.perf_event_paranoid to 0 where every user is trusted (CVE-2020-8694)."
)

POWERCAP_RECIPE = f"""\
# RAPL through powercap: read access for the group {GROUP}, given anew at every start.
# {CAVEAT}
sudo groupadd --system {GROUP}
sudo usermod -aG {GROUP} "$USER"

# Either a udev rule, which also covers a driver that is loaded later:
sudo tee /etc/udev/rules.d/70-rapl.rules <<'RULE'
SUBSYSTEM=="powercap", KERNEL=="intel-rapl*:*", \
RUN+="/bin/chgrp {GROUP} /sys%p/energy_uj /sys%p/max_energy_range_uj", \
RUN+="/bin/chmod g+r /sys%p/energy_uj /sys%p/max_energy_range_uj"
RULE
sudo udevadm control --reload
sudo udevadm trigger -s powercap -c add

# or a systemd-tmpfiles entry:
sudo tee /etc/tmpfiles.d/rapl.conf <<'ENTRY'
z /sys/class/powercap/intel-rapl*:*/energy_uj 0440 root {GROUP} - -
z /sys/class/powercap/intel-rapl*:*/max_energy_range_uj 0440 root {GROUP} - -
ENTRY
sudo systemd-tmpfiles --create /etc/tmpfiles.d/rapl.conf

# Log in again, so that the group counts. To undo: remove the file and start anew.
"""

PERF_RECIPE = f"""\
# RAPL through perf_event: no wraparound, and permission without changing files of the kernel.
# {CAVEAT}
sudo groupadd --system {GROUP}
sudo usermod -aG {GROUP} "$USER"

# A copy of the interpreter that only the group may run, with CAP_PERFMON (Linux 5.8 and newer):
python=$(readlink -f "$(command -v python3)")
sudo install -o root -g {GROUP} -m 0750 "$python" /usr/local/bin/python3-{GROUP}
sudo setcap cap_perfmon+ep /usr/local/bin/python3-{GROUP}
# Log in again and run: /usr/local/bin/python3-{GROUP} -m cwmp devices
# In a virtual environment made with --copies, give the capability to bin/python3 of that environment.

# Or, only on a machine whose every user is trusted, for all of them:
sudo sysctl kernel.perf_event_paranoid=0
"""


def recipes() -> str:
    """Both recipes, as text that a shell can be given line by line."""
    return f"{POWERCAP_RECIPE}\n{PERF_RECIPE}"


def perf_event_paranoid(path: Path = PARANOID_FILE) -> int | None:
    """The kernel's setting; None where there is none or it is no number."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
