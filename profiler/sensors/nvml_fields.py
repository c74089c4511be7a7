"""Several values of a GPU in one call, each with its own return code and time (nvmlDeviceGetFieldValues)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

NVML_SUCCESS = 0

FieldKey = tuple[int, int]
"""Field id and scope (nvml.h: NVML_FI_DEV_*, NVML_POWER_SCOPE_*)."""

GPU_SCOPE, MODULE_SCOPE, MEMORY_SCOPE = 0, 1, 2
ENERGY: FieldKey = (83, GPU_SCOPE)
AVERAGE_POWER: FieldKey = (185, GPU_SCOPE)
INSTANT_POWER: FieldKey = (186, GPU_SCOPE)
AVERAGE_MODULE_POWER: FieldKey = (185, MODULE_SCOPE)
INSTANT_MODULE_POWER: FieldKey = (186, MODULE_SCOPE)
AVERAGE_MEMORY_POWER: FieldKey = (185, MEMORY_SCOPE)
INSTANT_MEMORY_POWER: FieldKey = (186, MEMORY_SCOPE)

POWER_FIELDS: tuple[FieldKey, ...] = (
    INSTANT_POWER,
    AVERAGE_POWER,
    INSTANT_MODULE_POWER,
    AVERAGE_MODULE_POWER,
    INSTANT_MEMORY_POWER,
    AVERAGE_MEMORY_POWER,
)

_VALUE_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
"""Member of nvmlValue_t by nvmlValueType_t."""


@dataclass(frozen=True, kw_only=True)
class FieldValue:
    """One value of a multi-field call.

    Attributes:
        value: mJ or mW; None where the GPU refuses this field or gives no whole number ≥ 0.
        result: NVML return code of this field.
        timestamp_us: when the driver took it, µs since 1970 on the machine's clock; 0 if it does not say.
        latency_us: how long the driver took for it.
    """

    value: int | None
    result: int
    timestamp_us: int
    latency_us: int


def read_fields(nvml: Any, handle: Any, keys: Sequence[FieldKey]) -> dict[FieldKey, FieldValue]:
    """Read fields of one GPU in one call.

    Args:
        nvml: the pynvml module, initialised.
        handle: of the GPU.
        keys: which fields.

    Raises:
        NVMLError: of pynvml, where the call as a whole fails.
    """
    values = nvml.nvmlDeviceGetFieldValues(handle, list(keys))
    return {key: _field_value(value) for key, value in zip(keys, values, strict=True)}


def _field_value(value: Any) -> FieldValue:
    result = int(value.nvmlReturn)
    return FieldValue(
        value=_whole(value) if result == NVML_SUCCESS else None,
        result=result,
        timestamp_us=int(value.timestamp),
        latency_us=int(value.latencyUsec),
    )


def _whole(value: Any) -> int | None:
    kind = int(value.valueType)
    if not 0 <= kind < len(_VALUE_MEMBERS):
        return None
    number = getattr(value.value, _VALUE_MEMBERS[kind])
    return int(number) if 0 <= number < 2**64 else None
