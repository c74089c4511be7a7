"""One GPU: what it is asked once, and then read again and again, in one call where the driver has it.

Nothing is inferred from the architecture: each field and each call is tried, and what answers is used.

    energy   field 83 ── or nvmlDeviceGetTotalEnergyConsumption ── or power, integrated
    power    field 186 (instant) ── or 185 (1 s average) ── or nvmlDeviceGetPowerUsage
    memory   field 186 or 185 of the memory scope, integrated (high-bandwidth memory of data-centre boards)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from calibration_data import CounterSpec
from profiler.errors import SensorReadError
from profiler.sensors.left_out import LeftOut
from profiler.sensors.nvml_fields import (
    AVERAGE_MEMORY_POWER,
    AVERAGE_MODULE_POWER,
    AVERAGE_POWER,
    ENERGY,
    INSTANT_MEMORY_POWER,
    INSTANT_MODULE_POWER,
    INSTANT_POWER,
    POWER_FIELDS,
    FieldKey,
    FieldValue,
    read_fields,
)
from profiler.sensors.power_integral import POLL_PERIOD_S

NVML_UPDATE_PERIOD_S = 0.1
"""About 100 ms on present GPUs (arXiv 2312.02741; 20 ms on Volta), so the longest is assumed."""

NVML_RESOLUTION_UJ = 1000.0
"""NVML counts millijoules (nvmlDeviceGetTotalEnergyConsumption)."""

POWER_RESOLUTION_UW = 1000.0
"""Power comes in milliwatts."""

INSTANT_WINDOW_S = 0.1
"""Instant power averages 20 to 100 ms by generation (arXiv 2312.02741), so the longest is assumed."""

AVERAGE_WINDOW_S = 1.0
"""Average power is that of the last second (nvmlDeviceGetPowerUsage, field 185)."""

_NO_ADVICE = "No joules are reported without it; look at the GPU with: nvidia-smi."
_WINDOWS_S = {
    INSTANT_POWER: INSTANT_WINDOW_S,
    INSTANT_MEMORY_POWER: INSTANT_WINDOW_S,
    AVERAGE_POWER: AVERAGE_WINDOW_S,
    AVERAGE_MEMORY_POWER: AVERAGE_WINDOW_S,
}
_VIRTUAL_GPU = frozenset({2, 3, 4})  # NVML_GPU_VIRTUALIZATION_MODE_VGPU, _HOST_VGPU, _HOST_VSGA


@dataclass(frozen=True, kw_only=True)
class GpuSample:
    """What a GPU said at one instant.

    Attributes:
        time_ns: monotonic, the middle of the call.
        energy_mj: its counter; None where it has none.
        power_mw: by domain, of those whose power is integrated.
    """

    time_ns: int
    energy_mj: int | None
    power_mw: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU that can be measured.

    Attributes:
        nvml: the pynvml module.
        handle: NVML's handle.
        domain: ``gpu-0``.
        energy_field: whether the counter is read as a field.
        energy_call: whether it is read by its own call.
        power_fields: fields to integrate, by domain.
        power_call: whether nvmlDeviceGetPowerUsage is integrated.
        check_field: field of the power that the counter can be checked against; None where there is none.
        specs: one per domain.
        notes: what its numbers contain or do not tell apart.
    """

    nvml: Any
    handle: Any
    domain: str
    energy_field: bool
    energy_call: bool
    power_fields: Mapping[str, FieldKey]
    power_call: bool
    check_field: FieldKey | None
    specs: tuple[CounterSpec, ...]
    notes: tuple[str, ...]

    @property
    def has_counter(self) -> bool:
        """Whether its energy is counted, not integrated."""
        return self.energy_field or self.energy_call

    @property
    def integrated(self) -> tuple[str, ...]:
        """Domains whose energy is integrated power."""
        return (*self.power_fields, *((self.domain,) if self.power_call else ()))

    def sample(self) -> GpuSample:
        """Counter and powers now.

        Raises:
            SensorReadError: the GPU, or one of its fields, no longer answers.
        """
        keys = [*([ENERGY] if self.energy_field else []), *self.power_fields.values()]
        started_ns = time.monotonic_ns()
        try:
            values = self._fields(keys) if keys else {}
            energy_mj = values.get(ENERGY)
            if self.energy_call:
                energy_mj = self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle)
            power_mw = {domain: values[key] for domain, key in self.power_fields.items()}
            if self.power_call:
                power_mw[self.domain] = self.nvml.nvmlDeviceGetPowerUsage(self.handle)
        except self.nvml.NVMLError as error:
            raise SensorReadError(
                f"NVML could not read {self.domain}: {error}.", next_step=_NO_ADVICE
            ) from error
        return GpuSample(
            time_ns=(started_ns + time.monotonic_ns()) // 2, energy_mj=energy_mj, power_mw=power_mw
        )

    def check_power_mw(self) -> int:
        """Power that the counter can be checked against.

        Raises:
            SensorReadError: the GPU no longer answers.
        """
        try:
            if self.check_field is not None:
                return self._fields([self.check_field])[self.check_field]
            return int(self.nvml.nvmlDeviceGetPowerUsage(self.handle))
        except self.nvml.NVMLError as error:
            raise SensorReadError(f"NVML could not read the power of {self.domain}: {error}.") from error

    def _fields(self, keys: list[FieldKey]) -> dict[FieldKey, int]:
        found: dict[FieldKey, int] = {}
        for key, field in read_fields(self.nvml, self.handle, keys).items():
            if field.value is None:
                raise SensorReadError(
                    f"NVML could not read field {key[0]} of {self.domain}: {_reason(self.nvml, field)}.",
                    next_step=_NO_ADVICE,
                )
            found[key] = field.value
        return found


def find_gpu(nvml: Any, index: int) -> Gpu | LeftOut:
    """Ask a GPU for everything once.

    Returns:
        the GPU with what answers, or why its energy cannot be told at all.
    """
    domain = f"gpu-{index}"
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        name = nvml.nvmlDeviceGetName(handle)
    except nvml.NVMLError as error:
        return LeftOut(source=domain, reason=f"it answers: {error}")
    fields = _asked_fields(nvml, handle)
    supported = [key for key, field in fields.items() if field.value is not None]
    energy_error = (
        "" if ENERGY in supported else _refusal(nvml, nvml.nvmlDeviceGetTotalEnergyConsumption, handle)
    )
    power_key = next((key for key in (INSTANT_POWER, AVERAGE_POWER) if key in supported), None)
    power_error = "" if power_key else _refusal(nvml, nvml.nvmlDeviceGetPowerUsage, handle)
    if energy_error and power_error:
        return LeftOut(
            source=domain, reason=f"its energy counter answers: {energy_error}; its power: {power_error}"
        )
    notes = _notes(nvml, handle, domain, supported)
    power_fields = {domain: power_key} if energy_error and power_key else {}
    memory_key = next((key for key in (INSTANT_MEMORY_POWER, AVERAGE_MEMORY_POWER) if key in supported), None)
    if memory_key:
        power_fields[f"gpumem-{index}"] = memory_key
    power_call = bool(energy_error) and power_key is None
    if energy_error:
        notes = (f"{domain} has no energy counter ({energy_error}): its power is integrated", *notes)
    specs = [
        _power_spec(domain, power_key, f"GPU {index}, {name}", "; ".join(notes[1:]))
        if energy_error
        else _counter_spec(domain, ENERGY in supported, f"GPU {index}, {name}", "; ".join(notes))
    ]
    if memory_key:
        excludes = f"everything of {domain} but its memory; it is a part of {domain}"
        specs.append(_power_spec(f"gpumem-{index}", memory_key, f"GPU {index}, {name}", excludes))
    return Gpu(
        nvml=nvml,
        handle=handle,
        domain=domain,
        energy_field=ENERGY in supported,
        energy_call=not energy_error and ENERGY not in supported,
        power_fields=power_fields,
        power_call=power_call,
        check_field=power_key,
        specs=tuple(specs),
        notes=notes,
    )


def _asked_fields(nvml: Any, handle: Any) -> dict[FieldKey, FieldValue]:
    """Every field that we know; none where the driver has no such call."""
    try:
        return read_fields(nvml, handle, (ENERGY, *POWER_FIELDS))
    except nvml.NVMLError:
        return {}


def _refusal(nvml: Any, call: Callable[[Any], int], handle: Any) -> str:
    """Why a call does not answer; empty where it does."""
    try:
        call(handle)
    except nvml.NVMLError as error:
        return str(error)
    return ""


def _reason(nvml: Any, field: FieldValue) -> str:
    return str(nvml.NVMLError(field.result)) if field.result else "it is no whole number"


def _notes(nvml: Any, handle: Any, domain: str, supported: list[FieldKey]) -> tuple[str, ...]:
    """What the numbers of this GPU hold besides or do not tell apart."""
    notes = []
    if _answer(nvml, nvml.nvmlDeviceGetMigMode, handle, [0])[0]:
        notes.append(f"{domain} is split by MIG: its joules are those of the whole board")
    if _answer(nvml, nvml.nvmlDeviceGetVirtualizationMode, handle, 0) in _VIRTUAL_GPU:
        notes.append(f"{domain} is shared with virtual machines: its joules are those of the whole board")
    if INSTANT_MODULE_POWER in supported or AVERAGE_MODULE_POWER in supported:
        notes.append(
            f"{domain} is part of a module (GH200 or like it): its counter may hold the module's processor"
            " and memory too"
        )
    return tuple(notes)


def _answer(nvml: Any, call: Callable[[Any], Any], handle: Any, default: Any) -> Any:
    try:
        return call(handle)
    except nvml.NVMLError:
        return default


def _counter_spec(domain: str, is_field: bool, gpu: str, excludes: str) -> CounterSpec:
    way = "field 83" if is_field else "nvmlDeviceGetTotalEnergyConsumption"
    return CounterSpec(
        domain=domain,
        interface="nvml",
        source=f"{way} of {gpu}",
        resolution_uj=NVML_RESOLUTION_UJ,
        update_period_s=NVML_UPDATE_PERIOD_S,
        excludes=excludes,
    )


def _power_spec(domain: str, key: FieldKey | None, gpu: str, excludes: str) -> CounterSpec:
    way = "nvmlDeviceGetPowerUsage" if key is None else f"field {key[0]}, scope {key[1]},"
    window_s = AVERAGE_WINDOW_S if key is None else _WINDOWS_S[key]
    period_s = max(NVML_UPDATE_PERIOD_S, window_s)
    return CounterSpec(
        domain=domain,
        kind="power",
        interface="nvml",
        source=f"{way} of {gpu}, integrated every {POLL_PERIOD_S:g} s",
        resolution_uj=POWER_RESOLUTION_UW * period_s,
        update_period_s=period_s,
        averaging_window_s=window_s,
        excludes=excludes,
    )
