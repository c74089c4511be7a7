"""What a GPU is, from torch's device properties and NVML: memory levels, types, versions."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import Any

from calibration_data import MemoryHierarchy, UsageError

SECTOR_BYTES = 32
"""Unit of transfer between the levels (CUDA C++ Best Practices Guide, coalesced access)."""

L1_KIB: Mapping[tuple[int, int], int] = MappingProxyType(
    {
        (7, 0): 128,
        (7, 2): 128,
        (7, 5): 96,
        (8, 0): 192,
        (8, 6): 128,
        (8, 7): 192,
        (8, 9): 128,
        (9, 0): 256,
        (10, 0): 256,
        (12, 0): 128,
    }
)
"""Unified data cache of a multiprocessor by compute capability (CUDA C++ Programming Guide, "Compute
Capabilities", sections on shared memory). No property tells it, and shared memory takes its part of it."""

SINCE: Mapping[str, tuple[int, int]] = MappingProxyType(
    {"fp64": (6, 0), "fp32": (6, 0), "fp16": (7, 0), "int8": (8, 0), "bf16": (8, 0), "tf32": (8, 0)}
)
"""First compute capability whose units do each type as it is counted here, by matrix units where there are
any (CUDA C++ Programming Guide, arithmetic throughput)."""


def cuda_memory(properties: Any) -> MemoryHierarchy:
    """Memory levels of a GPU.

    Args:
        properties: as of ``torch.cuda.get_device_properties``: major, minor, multi_processor_count and
            L2_cache_size.

    Raises:
        UsageError: the size of its first level is not known.
    """
    capability = (int(properties.major), int(properties.minor))
    if capability not in L1_KIB:
        raise UsageError(
            f"The first cache level of a GPU of compute capability {capability[0]}.{capability[1]} is not"
            " known, so no byte can be charged to it.",
            next_step="Add its unified data cache, from the CUDA C++ Programming Guide, to"
            " profiler/cuda_properties.py.",
        )
    return MemoryHierarchy(
        l1_bytes=1024 * L1_KIB[capability],
        l2_bytes=int(properties.L2_cache_size),
        llc_bytes=None,
        line_bytes=SECTOR_BYTES,
        cores=int(properties.multi_processor_count),
    )


def cuda_dtypes(properties: Any) -> frozenset[str]:
    """Types that the GPU's units do."""
    capability = (int(properties.major), int(properties.minor))
    return frozenset(name for name, since in SINCE.items() if capability >= since)


def nvml_index(nvml: Any, uuid: str) -> int | None:
    """NVML's number of a GPU, which environment variables do not reorder; None where it shows no such GPU.

    Args:
        nvml: the pynvml module, initialised.
        uuid: of the GPU, with or without ``GPU-`` before it.
    """
    wanted = uuid.lower().removeprefix("gpu-")
    for index in range(nvml.nvmlDeviceGetCount()):
        found = nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByIndex(index))
        text = found.decode() if isinstance(found, bytes) else str(found)
        if text.lower().removeprefix("gpu-") == wanted:
            return index
    return None


def cuda_versions(nvml: Any, torch: Any) -> dict[str, str]:
    """Versions that a measurement on a GPU can depend on; what does not answer is left out."""
    found = {"torch": str(torch.__version__), "cuda": str(torch.version.cuda)}
    try:
        found["triton"] = version("triton")
    except PackageNotFoundError:
        found["triton"] = "built with torch"
    try:
        driver = nvml.nvmlSystemGetDriverVersion()
    except nvml.NVMLError:
        return found
    return {**found, "driver": driver.decode() if isinstance(driver, bytes) else str(driver)}
