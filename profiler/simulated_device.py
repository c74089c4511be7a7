"""A device with known costs that runs in virtual time.

For users without rights or hardware, and the known truth of tests.

    kernel ──▶ work counts ──▶ seconds by its rates ──▶ watts by its truth ──▶ counters that tick, wrap, err

The slowest resource decides how long work takes (roofline). Power is constant while one execution runs and
varies from run to run by ``noise_rel``.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from calibration_data import UsageError, Work, domain_kind
from calibration_data.terms import DRAM_TERMS, POWER_TERMS
from profiler.device import Execution
from profiler.duty import jitter, slice_seconds
from profiler.microbenchmark import Microbenchmark, work_per_loop
from profiler.sensors.simulated import SimulatedSensor
from profiler.simulated_spec import SimulatedDeviceSpec

SPIN_LOOP_S = 0.001
"""One loop of ``idle`` and ``spin``."""

THROTTLE_S = 10.0

_SHARED = ("byte_llc", "byte_dram_read", "byte_dram_write", "line_random_dram")


class VirtualClock:
    """Time that passes only when the device works, idles or sleeps."""

    def __init__(self, pass_idle_time: Callable[[float], None]) -> None:
        self.now_s = 0.0
        self._pass_idle_time = pass_idle_time
        self._actions: dict[int, tuple[float, float, Callable[[], None]]] = {}
        self._next_key = 0

    def now_ns(self) -> int:
        """Virtual nanoseconds since the device was made."""
        return round(self.now_s * 1e9)

    def sleep(self, seconds: float) -> None:
        """Let the device idle."""
        self._pass_idle_time(seconds)

    def every(self, period_s: float, action: Callable[[], None]) -> Callable[[], None]:
        """Call ``action`` whenever that much virtual time has passed."""
        key = self._next_key
        self._next_key += 1
        self._actions[key] = (self.now_s + period_s, period_s, action)

        def stop() -> None:
            del self._actions[key]

        return stop

    def until_next_action(self) -> float:
        """Seconds until something is due."""
        return min((due_s for due_s, _, _ in self._actions.values()), default=float("inf")) - self.now_s

    def advance(self, seconds: float) -> None:
        """Let time pass and call what has come due."""
        self.now_s += seconds
        for key, (due_s, period_s, action) in list(self._actions.items()):
            if due_s <= self.now_s + 1e-12:
                self._actions[key] = (self.now_s + period_s, period_s, action)
                action()


class SimulatedDevice:
    """A device of known truth with its own clock and sensors.

    Args:
        spec: what the device is.
        name: as given on the command line, e.g. ``sim:server-cpu``.
        seed: of the run-to-run noise and the phase of the ticks.
    """

    kind: Literal["cpu", "cuda", "simulated"] = "simulated"
    provenance: Literal["measured", "simulated"] = "simulated"

    def __init__(self, spec: SimulatedDeviceSpec, *, name: str | None = None, seed: int = 0) -> None:
        self.spec = spec
        self.name = name or f"sim:{spec.name}"
        self.model_name = f"simulated {spec.name}"
        self.memory = spec.memory
        self.rng = random.Random(f"{spec.name}/{seed}")
        counter_faults = tuple(fault for fault in spec.faults if fault.kind != "throttle")
        self._throttles_s = [fault.at_s for fault in spec.faults if fault.kind == "throttle"]
        self._sensor = SimulatedSensor(spec.name, spec.sensor, counter_faults, self.rng)
        self.sensors = (self._sensor,)
        self.clock = VirtualClock(self.idle)

    def supports(self, benchmark: Microbenchmark) -> bool:
        """Whether every operation of the microbenchmark has a true cost here."""
        return set(work_per_loop(benchmark, self.memory)) <= set(self.spec.truth)

    def prepare(self, benchmark: Microbenchmark) -> SimulatedKernel:
        """The microbenchmark as work counts."""
        return SimulatedKernel(self, benchmark, work_per_loop(benchmark, self.memory))

    def idle(self, seconds: float) -> None:
        """Let virtual time pass at idle power."""
        self._spend(seconds, Work(), 0, self._run_factors())

    def execute(self, work: Work, *, threads: int | None = None) -> Execution:
        """Do some work with ``threads`` cores (all of them if None), as one execution.

        Raises:
            UsageError: the device has no true cost for some of it; a simulated joule leaves nothing out.
        """
        self._require_costs(work)
        cores = self.memory.cores if threads is None else threads
        seconds = self.duration_s(work, cores)
        self._spend(seconds, work.without_times(), cores, self._run_factors())
        return Execution(active_s=seconds, busy_core_s=seconds * cores)

    def true_energy_j(self, work: Work) -> float:
        """Joules, idle power included, that some work on all cores takes by the truth.

        No noise, and nothing of what the sensors make of it. Only to judge predictions by.

        Raises:
            UsageError: the device has no true cost for some of it.
        """
        self._require_costs(work)
        seconds = self.duration_s(work, self.memory.cores)
        if not seconds:
            return 0.0
        return seconds * sum(self._watts_by_term(seconds, work.without_times(), self.memory.cores).values())

    def duration_s(self, work: Work, threads: int) -> float:
        """Virtual seconds of some work: its slowest resource; private ones scale with the cores used."""
        share = threads / self.memory.cores
        slowest_s = 0.0
        for term, amount in work.items():
            if term not in POWER_TERMS:
                speed = min(1.0, 2 * share) if term in _SHARED else share
                slowest_s = max(slowest_s, amount / (self.spec.rate(term) * speed))
        return slowest_s * (2 if self.throttled() else 1)

    def throttled(self) -> bool:
        """Whether a scripted throttling is on now."""
        return any(at_s <= self.clock.now_s < at_s + THROTTLE_S for at_s in self._throttles_s)

    def conditions(self) -> dict[str, str]:
        """Whether it throttles now."""
        return {"throttled": "yes" if self.throttled() else "no"}

    def close(self) -> None:
        """Nothing to release."""

    def _run_factors(self) -> dict[str, float]:
        """Run-to-run factor of each domain's power, one draw per execution."""
        noise = self.spec.sensor.noise_rel
        return {domain: max(0.0, self.rng.gauss(1, noise)) for domain in self.spec.sensor.domains}

    def _spend(self, seconds: float, work: Work, busy_cores: int, factors: dict[str, float]) -> None:
        """Let time pass while the device does some work evenly over it."""
        if seconds <= 0:
            return
        power_w = {
            domain: watts * factors[domain]
            for domain, watts in self._power_w(seconds, work, busy_cores).items()
        }
        left_s = seconds
        while left_s > 1e-12:
            slice_s = min(left_s, max(self.clock.until_next_action(), 1e-9))
            self._sensor.feed(slice_s, power_w)
            self.clock.advance(slice_s)
            left_s -= slice_s

    def _require_costs(self, work: Work) -> None:
        unknown = sorted(set(work.without_times()) - set(self.spec.truth))
        if unknown:
            raise UsageError(
                f"{self.name} has no true cost for {', '.join(unknown)}.",
                next_step="Add it to the truth of the device's file.",
            )

    def _watts_by_term(self, seconds: float, work: Work, busy_cores: int) -> dict[str, float]:
        """True mean power of each term while the device does some work in some time."""
        truth = self.spec.truth
        by_term = {term: truth[term] * amount / seconds for term, amount in work.items()}
        by_term["idle_w"] = truth["idle_w"]
        by_term["dram_idle_w"] = truth.get("dram_idle_w", 0.0)
        if busy_cores:
            by_term["awake_w"] = truth.get("awake_w", 0.0)
            by_term["core_w"] = truth.get("core_w", 0.0) * busy_cores
        return by_term

    def _power_w(self, seconds: float, work: Work, busy_cores: int) -> dict[str, float]:
        """True mean power of each listed domain while it does some work in some time."""
        by_term = self._watts_by_term(seconds, work, busy_cores)
        domains = self.spec.sensor.domains
        kinds = [domain_kind(domain) for domain in domains]
        own_dram = "dram" in kinds
        dram_w = sum(by_term.get(term, 0.0) for term in DRAM_TERMS)
        total_w = sum(by_term.values())
        core_w = sum(
            watts
            for term, watts in by_term.items()
            if term.startswith("flop_") or term in ("core_w", "byte_l1", "byte_l2", "launch")
        )
        by_kind = {
            "package": total_w - dram_w if own_dram else total_w,
            "gpu": total_w - dram_w if own_dram else total_w,
            "dram": dram_w,
            "core": core_w,
            "uncore": by_term.get("byte_llc", 0.0),
            "psys": total_w,
        }
        return {
            domain: by_kind[kind] / kinds.count(kind) for domain, kind in zip(domains, kinds, strict=True)
        }


@dataclass(frozen=True)
class SimulatedKernel:
    """A microbenchmark that a simulated device runs by its work counts."""

    device: SimulatedDevice
    benchmark: Microbenchmark
    work_per_loop: Work

    def run(self, loops: int) -> Execution:
        """Run loops in virtual time, with pauses if the duty is below 1."""
        device, threads = self.device, self.benchmark.threads
        factors = device._run_factors()
        if self.benchmark.kernel == "idle":
            device._spend(loops * SPIN_LOOP_S, Work(), 0, factors)
            return Execution(active_s=0.0, busy_core_s=0.0)
        throttled = device.throttled()
        work = self.work_per_loop * loops
        busy_s = loops * SPIN_LOOP_S if self.benchmark.kernel == "spin" else device.duration_s(work, threads)
        charged = work * (device.spec.zeros_rel if self.benchmark.data == "zeros" else 1.0)
        for share in self._slices(busy_s):
            device._spend(share * busy_s, charged * share, threads, factors)
            device._spend(share * busy_s * (1 / self.benchmark.duty - 1), Work(), 0, factors)
        return Execution(
            active_s=busy_s, busy_core_s=busy_s * threads, throttled=throttled or device.throttled()
        )

    def _slices(self, busy_s: float) -> list[float]:
        """Parts of the work between two pauses; they add up to one."""
        if self.benchmark.duty == 1:
            return [1.0]
        count = max(1, round(busy_s / slice_seconds(self.device.sensors)))
        lengths = [jitter(self.device.rng) for _ in range(count)]
        return [length / sum(lengths) for length in lengths]

    def close(self) -> None:
        """Nothing to release."""
