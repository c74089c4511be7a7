"""What others have published for the same costs, to flag a coefficient that no known device has.

Three quantities go by the name of joules per bit in the literature: energy of a circuit, energy of a path
with its controllers, and the slope of a whole board; they differ by 3 to 30 times. The ranges here are of
the last two, the kind that a fit to counters gives. Bits are converted to bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from calibration_data import TERMS
from calibration_data.records import DeviceFingerprint
from cost_models.document import Coefficient
from cost_models.engineering import interval

GPU_LINE_BYTES = 32
"""Unit of transfer that tells a simulated GPU from a simulated CPU (64-byte lines)."""

_CHOI = "Choi et al., IPDPS 2013 and 2014"
_XEON = "band over Choi et al. 2013/2014 and thermal design power over peak of Xeon and EPYC parts"
_SC25 = "Antepara et al., SC'25 (A100, GH200, MI250X, MI300A)"
_GPUS = f"{_SC25}; GPUJoule, HPCA 2019 (K40); gpupower0701 (RTX 3090, equal work)"


@dataclass(frozen=True, kw_only=True)
class PublishedRange:
    """Smallest and largest published value of a term, in its unit, and who published them."""

    low: float
    high: float
    source: str


def _range(low: float, high: float, source: str) -> PublishedRange:
    return PublishedRange(low=low, high=high, source=source)


PUBLISHED: MappingProxyType[Literal["cpu", "cuda"], MappingProxyType[str, PublishedRange]] = MappingProxyType(
    {
        "cpu": MappingProxyType(
            {
                "flop_fp64": _range(10e-12, 150e-12, _XEON),
                "flop_fp32": _range(5e-12, 80e-12, _XEON),
                "byte_l1": _range(1e-12, 20e-12, _CHOI),
                "byte_l2": _range(5e-12, 60e-12, _CHOI),
                "byte_llc": _range(10e-12, 150e-12, _CHOI),
                "byte_dram_read": _range(100e-12, 500e-12, f"package and DRAM; {_CHOI}"),
                "byte_dram_write": _range(100e-12, 500e-12, f"package and DRAM; {_CHOI}"),
                "line_random_dram": _range(5e-9, 140e-9, f"bytes included; {_CHOI}"),
            }
        ),
        "cuda": MappingProxyType(
            {
                "idle_w": _range(9.0, 88.0, f"constants of {_SC25}; idle readings of GB10 to H100 PCIe"),
                "flop_fp64": _range(11.5e-12, 28.5e-12, _SC25),
                "flop_fp32": _range(
                    2.7e-12, 20.5e-12, "Apple M4 Max; thermal design power over peak of A100"
                ),
                "flop_fp16": _range(0.46e-12, 2.14e-12, f"tensor cores; {_SC25}; gpupower0701 (RTX 3090)"),
                "byte_l1": _range(8 * 0.85e-12, 8 * 5.85e-12, _GPUS),
                "byte_l2": _range(8 * 1.39e-12, 8 * 15.48e-12, _GPUS),
                "byte_dram_read": _range(8 * 11.68e-12, 8 * 30.55e-12, _GPUS),
                "byte_dram_write": _range(8 * 11.68e-12, 8 * 30.55e-12, _GPUS),
                "line_random_dram": _range(5e-9, 140e-9, f"bytes included; {_CHOI}"),
                "launch": _range(0.15e-3, 0.3e-3, "derived: 1.4 to 2.4 µs at 80 to 100 W"),
            }
        ),
    }
)
"""By device kind and term. A term that is not here has no published range."""


def published_range(device: DeviceFingerprint | None, term: str) -> PublishedRange | None:
    """What is published for a term on this kind of device; None where nothing is, or the device is unknown.

    A simulated device counts as the kind whose line size it has.
    """
    if device is None:
        return None
    kind = device.kind
    if kind == "simulated":
        kind = "cuda" if device.memory.line_bytes == GPU_LINE_BYTES else "cpu"
    return PUBLISHED[kind].get(term)


def implausibility(device: DeviceFingerprint | None, coefficient: Coefficient) -> str:
    """A sentence if the whole 95 % interval lies outside what is published; empty otherwise."""
    published = published_range(device, coefficient.name)
    if published is None or coefficient.ci95 is None:
        return ""
    low, high = coefficient.ci95
    if high >= published.low and low <= published.high:
        return ""
    shown = interval(published.low, published.high, TERMS[coefficient.name].unit)
    return f"outside the published range {shown} ({published.source})"
