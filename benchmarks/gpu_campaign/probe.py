"""Two minutes that say what the sensor sees: fields, tick, averaging window, coverage, idle and awake power.

facts ─ idle ─ awake (empty loop) ─ bursts ─ second level and memory, read ─ rates by working set
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from benchmarks.gpu_campaign.analysis import changes_of, find_tick, find_window, powers_of_counter
from benchmarks.gpu_campaign.settings import Settings, write_json
from calibration_data import domain_kind
from profiler.device import Device, Kernel
from profiler.devices import open_device
from profiler.microbenchmark import Microbenchmark
from profiler.placement import walk
from profiler.sensors.nvml import NvmlSensor
from profiler.sensors.nvml_fields import ENERGY, POWER_FIELDS, FieldKey, FieldValue, read_fields

POLL_S = 0.002
IDLE_S, AWAKE_S, STREAM_S, BURSTS_S = 15.0, 15.0, 10.0, 30.0
BURST_S = (0.004, 0.15)
"""Shortest and longest burst and pause: around every window from 10 to 100 ms there is a phase to see."""

SHARES_OF_L2 = (0.125, 0.25, 0.5, 0.75, 1.0, 2.0, 4.0)
RATE_S = 0.3

Samples = dict[str, list[tuple[float, float]]]


def run(settings: Settings) -> None:
    """Probe the device; everything in one command."""
    device = open_device(settings.device_name)
    try:
        document = {"device": device.model_name, "provenance": device.provenance, **_facts(device)}
        for name, part in (
            ("idle", lambda: _state(device, IDLE_S, None)),
            ("awake", lambda: _state(device, AWAKE_S, _spin(device))),
            ("bursts", lambda: _bursts(device)),
            ("read_l2", lambda: _state(device, STREAM_S, _load(device, "l2"))),
            ("read_dram", lambda: _state(device, STREAM_S, _load(device, "dram"))),
            ("rates", lambda: _rates(device)),
        ):
            settings.keep_time()
            print(name, flush=True)
            try:
                document[name] = part()
            # What one state cannot show, the others still do.
            except Exception as error:
                document[name] = {"refused": f"{type(error).__name__}: {error}"}
                print(f"{name}: {document[name]['refused']}", flush=True)
            write_json(settings.file("probe.json"), document)
    finally:
        device.close()


def _facts(device: Device) -> dict[str, Any]:
    memory = device.memory
    facts: dict[str, Any] = {
        "l1_bytes": memory.l1_bytes,
        "l2_bytes": memory.l2_bytes,
        "multiprocessors": memory.cores,
        "conditions": device.conditions(),
    }
    gpu = _gpu(device)
    if gpu is not None:
        fields = _fields(gpu)
        facts["fields"] = {
            f"{key[0]}/{key[1]}": {
                "value": field.value,
                "result": field.result,
                "latency_us": field.latency_us,
            }
            for key, field in fields.items()
        }
        facts["sample_buffer"] = _sample_buffer(gpu)
        facts["notes"] = list(gpu.notes)
    return facts


def _gpu(device: Device) -> Any:
    return next((sensor.gpus[0] for sensor in device.sensors if isinstance(sensor, NvmlSensor)), None)


def _fields(gpu: Any) -> dict[FieldKey, FieldValue]:
    """Energy and power fields; none where the driver has no call for several."""
    try:
        return read_fields(gpu.nvml, gpu.handle, (ENERGY, *POWER_FIELDS))
    except gpu.nvml.NVMLError:
        return {}


def _sample_buffer(gpu: Any) -> dict[str, Any]:
    """Power samples that the driver keeps by itself, with its own times."""
    try:
        _, samples = gpu.nvml.nvmlDeviceGetSamples(gpu.handle, gpu.nvml.NVML_TOTAL_POWER_SAMPLES, 0)
    except gpu.nvml.NVMLError as error:
        return {"refused": str(error)}
    times = [sample.timeStamp for sample in samples]
    gaps = [after - before for before, after in pairwise(times)]
    return {"samples": len(times), "median_gap_us": statistics.median(gaps) if gaps else None}


def _reader(device: Device) -> Callable[[], dict[str, float]]:
    """Reads everything that the sensor tells: joules of counters, watts of power fields."""
    gpu = _gpu(device)
    found = {} if gpu is None else _fields(gpu)
    keys = [key for key, field in found.items() if field.value is not None]
    if gpu is None or not keys:
        return lambda: {
            domain: energy_uj / 1e6
            for sensor in device.sensors
            for domain, energy_uj in sensor.read().energy_uj.items()
        }

    def read() -> dict[str, float]:
        values = read_fields(gpu.nvml, gpu.handle, keys)
        # Millijoules and milliwatts.
        return {
            "gpu" if key == ENERGY else f"power-{key[0]}-{key[1]}": field.value / 1000
            for key, field in values.items()
            if field.value is not None
        }

    return read


@contextmanager
def _polled(device: Device) -> Iterable[Samples]:
    samples: Samples = {}
    read, clock = _reader(device), device.clock

    def poll() -> None:
        before_ns = clock.now_ns()
        values = read()
        time_s = (before_ns + clock.now_ns()) / 2 * 1e-9
        for name, value in values.items():
            samples.setdefault(name, []).append((time_s, value))

    stop = clock.every(POLL_S, poll)
    try:
        yield samples
    finally:
        stop()


def _is_counter(name: str) -> bool:
    return domain_kind(name) in ("gpu", "package")


def _summary(samples: Samples) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for name, values in samples.items():
        tick = find_tick(values)
        entry: dict[str, Any] = {"samples": len(values), "tick": tick.document() if tick else None}
        if _is_counter(name):
            ticks = changes_of(values)
            if len(ticks) > 1:
                (begin_s, begin_j), (end_s, end_j) = ticks[0], ticks[-1]
                entry["mean_w"] = (end_j - begin_j) / (end_s - begin_s)
        else:
            entry["mean_w"] = statistics.fmean(value for _, value in values)
        summary[name] = entry
    return summary


def _state(device: Device, seconds: float, kernel: Kernel | None) -> dict[str, Any]:
    """One state for so long; the first second is not looked at."""
    if kernel is None:
        device.idle(1.0)
        with _polled(device) as samples:
            device.idle(seconds)
        return {**_summary(samples), "conditions": device.conditions()}
    try:
        loops = _loops_for(device, kernel, 1.0)
        kernel.run(loops)
        with _polled(device) as samples:
            execution = kernel.run(round(loops * seconds))
        work = kernel.work_per_loop * round(loops * seconds)
        rates = {name: amount / execution.active_s for name, amount in work.items()}
        return {**_summary(samples), "rates": rates, "conditions": device.conditions()}
    finally:
        kernel.close()


def _loops_for(device: Device, kernel: Kernel, seconds: float) -> int:
    loops = 1
    while True:
        active_s = kernel.run(loops).active_s
        if active_s > seconds / 10:
            return max(1, round(loops * seconds / active_s))
        loops *= 2


def _spin(device: Device) -> Kernel:
    cores = device.memory.cores
    return device.prepare(Microbenchmark(point="spin", family="awake", kernel="spin", threads=cores))


def _load(device: Device, level: str) -> Kernel:
    memory = device.memory
    size = memory.l2_bytes // 4 if level == "l2" else 4 * memory.l2_bytes
    return device.prepare(walk("load", memory, level, size, memory.cores, shared=level == "l2"))


def _bursts(device: Device) -> dict[str, Any]:
    """Bursts of random length at random distances, and what the sensors make of them."""
    rng = random.Random(0)
    cores, clock = device.memory.cores, device.clock
    kernel = device.prepare(
        Microbenchmark(point="bursts", family="fma", kernel="fma", threads=cores, dtype="fp32")
    )
    bursts: list[tuple[float, float]] = []
    try:
        loops_per_s = _loops_for(device, kernel, 1.0)
        device.idle(1.0)
        with _polled(device) as samples:
            until_ns = clock.now_ns() + round(BURSTS_S * 1e9)
            while clock.now_ns() < until_ns:
                execution = kernel.run(max(1, round(loops_per_s * rng.uniform(*BURST_S))))
                ended_s = clock.now_ns() * 1e-9
                bursts.append((ended_s - execution.active_s, ended_s))
                clock.sleep(rng.uniform(*BURST_S))
    finally:
        kernel.close()
    found: dict[str, Any] = {"bursts": len(bursts)}
    for name, values in samples.items():
        tick = find_tick(values)
        readings = powers_of_counter(values) if _is_counter(name) else changes_of(values)
        window = (
            find_window(bursts, readings, tick_s=tick.period_s, longest_s=max(1.2, 1.5 * tick.period_s))
            if tick
            else None
        )
        found[name] = {
            "tick": tick.document() if tick else None,
            "window": window.document() if window else None,
        }
    return found


def _rates(device: Device) -> dict[str, Any]:
    """Bytes per second by working set: whether the second level serves half its size, as the plan has it."""
    memory = device.memory
    rates = {}
    for share in SHARES_OF_L2:
        for shared in (False, True):
            size = round(share * memory.l2_bytes)
            benchmark = walk("load", memory, "dram", size, memory.cores, shared=shared)
            kernel = device.prepare(benchmark)
            try:
                loops = _loops_for(device, kernel, RATE_S)
                execution = kernel.run(loops)
                moved = kernel.work_per_loop["byte_l1"] * loops
            finally:
                kernel.close()
            name = f"{share:g} of l2, {'all' if shared else 'own share'}"
            rates[name] = moved / execution.active_s
    return rates
