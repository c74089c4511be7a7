"""The file of a simulated device: its true costs, how fast it works, its memory, its sensor, its faults.

The truth is for the simulator and for tests alone: nothing that fits or selects ever reads it.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    field_validator,
)

from calibration_data import TERMS, MemoryHierarchy, UsageError
from calibration_data.files import Frozen, read_model
from calibration_data.terms import POWER_TERMS

MAX_FILE_BYTES = 1_000_000

_DEFAULT_RATES_PER_CORE = {
    "flop_fp64": 25e9,
    "flop_fp32": 50e9,
    "flop_tf32": 400e9,
    "flop_bf16": 400e9,
    "flop_fp16": 400e9,
    "flop_int8": 800e9,
    "byte_l1": 200e9,
    "byte_l2": 80e9,
    "byte_llc": 30e9,
    "byte_dram_read": 6e9,
    "byte_dram_write": 4e9,
    "launch": 1e6,
}


class SimulatedSensorSpec(Frozen):
    """How the simulated sensor shows the device's power.

    Attributes:
        domains: ``package-0``, ``dram-0``, ``core-0``, ``uncore-0``, ``psys``, ``gpu-0``.
        update_period_s: the counter moves once per tick.
        quantum_j: and by whole quanta.
        range_j: it starts again at 0 when it reaches this; None if it never wraps.
        noise_rel: relative standard deviation of the power of one execution from run to run.
        gain: what the sensor shows of a true joule (a systematic error of the board).
        averaging_window_s: the sensor sees only the last part of each tick; None sees all of it.
        drift_rel_per_h: what it shows of a joule grows by this part in each hour, or falls.
    """

    domains: Annotated[tuple[str, ...], Field(min_length=1, max_length=64)]
    update_period_s: PositiveFloat = 0.001
    quantum_j: PositiveFloat = 6.1e-5
    range_j: PositiveFloat | None = None
    noise_rel: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    gain: PositiveFloat = 1.0
    averaging_window_s: PositiveFloat | None = None
    drift_rel_per_h: Annotated[float, Field(ge=-0.5, le=0.5)] = 0.0


class Fault(Frozen):
    """Something that goes wrong with a domain (or the device, for ``throttle``) at a virtual time.

    ``read_error`` fails one read, ``vanish`` and ``permission`` every read from then on; ``stuck`` stops the
    counter; ``reset`` starts it again at 0; ``spike`` adds 100 kJ once; ``throttle`` halves all rates for
    10 s.
    """

    kind: Literal["read_error", "stuck", "reset", "permission", "vanish", "spike", "throttle"]
    at_s: NonNegativeFloat
    domain: str | None = None


class SimulatedDeviceSpec(Frozen):
    """A simulated device as its file describes it.

    Attributes:
        truth: joules per unit, or watts, by term.
        rates: units per second of the whole device by operation term; typical values where one is missing.
        zeros_rel: what operations of a microbenchmark on zeros cost of those on random data.
    """

    schema_name: Literal["calijoule/simulated-device"] = Field(alias="schema")
    schema_version: Literal[1]
    name: Annotated[str, Field(min_length=1, max_length=100)]
    truth: dict[str, NonNegativeFloat]
    rates: dict[str, PositiveFloat] = Field(default_factory=dict)
    zeros_rel: Annotated[float, Field(gt=0, le=1)] = 1.0
    memory: MemoryHierarchy
    sensor: SimulatedSensorSpec
    faults: Annotated[tuple[Fault, ...], Field(max_length=1000)] = ()

    @field_validator("truth", "rates")
    @classmethod
    def _only_terms(cls, values: dict[str, float]) -> dict[str, float]:
        for name in values:
            if name not in TERMS:
                raise ValueError(f"{name!r} is not a term of the energy model")
        return values

    @field_validator("truth")
    @classmethod
    def _has_idle_power(cls, truth: dict[str, float]) -> dict[str, float]:
        if not truth.get("idle_w"):
            raise ValueError("a device needs an idle power: truth.idle_w")
        return truth

    @field_validator("memory", mode="before")
    @classmethod
    def _llc_may_be_absent(cls, memory: Any) -> Any:
        return {"llc_bytes": None, **memory} if isinstance(memory, dict) else memory

    def rate(self, term: str) -> float:
        """Units of an operation per second with all cores busy."""
        if term in self.rates:
            return self.rates[term]
        if term == "line_random_dram":
            # Random lines reach about half of the streaming bandwidth.
            return self.rate("byte_dram_read") / (2 * self.memory.line_bytes)
        return _DEFAULT_RATES_PER_CORE[term] * self.memory.cores

    def operations(self) -> tuple[str, ...]:
        """Terms of the truth that count operations rather than time."""
        return tuple(name for name in self.truth if name not in POWER_TERMS)


def shipped_names() -> tuple[str, ...]:
    """Names of the simulated devices that come with the package."""
    folder = resources.files("profiler") / "simulated_devices"
    return tuple(sorted(entry.name.removesuffix(".json") for entry in folder.iterdir()))


def load_spec(name: str) -> SimulatedDeviceSpec:
    """Read a shipped device by name, or a device file by path.

    Raises:
        UsageError: there is neither a shipped device nor a file of that name.
        InvalidFileError: the file breaks the schema.
    """
    if name in shipped_names():
        text = (resources.files("profiler") / "simulated_devices" / f"{name}.json").read_text()
        return SimulatedDeviceSpec.model_validate_json(text)
    path = Path(name)
    if not path.is_file():
        raise UsageError(
            f"There is no simulated device {name!r}.",
            next_step=f"Shipped are {', '.join(shipped_names())}; or give sim:FILE.json.",
        )
    return read_model(path, SimulatedDeviceSpec, limit_bytes=MAX_FILE_BYTES)
