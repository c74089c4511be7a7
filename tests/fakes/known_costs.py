"""Cost models with known coefficients: what a perfect fit of a shipped simulated device would give."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from calibration_data import TERMS, MemoryHierarchy
from calibration_data.records import DeviceFingerprint
from cost_models import Coefficient, CostModel, CostModelDocument
from cost_models.document import Covariance
from profiler.simulated_spec import load_spec


def known_cost_model(
    name: str = "server-cpu",
    *,
    relative_u: float = 0.0,
    correlation: float = 0.0,
    overrides: Mapping[str, float] | None = None,
    refused: frozenset[str] = frozenset(),
    memory: MemoryHierarchy | None = None,
) -> CostModel:
    """The truth of a simulated device as a cost model.

    Args:
        name: shipped simulated device.
        relative_u: relative standard uncertainty of every coefficient.
        correlation: between every two coefficients.
        overrides: values that replace the truth.
        refused: coefficients that the fit would not have identified.
        memory: caches that replace those of the device.
    """
    spec = load_spec(name)
    truth = {**spec.truth, **(overrides or {})}
    names = [term for term in TERMS if term in truth]
    known = [term for term in names if term not in refused]
    u = np.array([relative_u * truth[term] for term in known])
    matrix = np.outer(u, u) * (correlation + (1 - correlation) * np.eye(len(known)))
    return CostModel(
        CostModelDocument(
            provenance="simulated",
            device=DeviceFingerprint(
                device=f"sim:{name}",
                kind="simulated",
                model_name=spec.name,
                memory=memory or spec.memory,
            ),
            created="2026-01-01T00:00:00+00:00",
            domains=tuple(spec.sensor.domains),
            time_attribution="active",
            throughput={term: spec.rate(term) for term in spec.operations()},
            coefficients=tuple(_coefficient(term, truth[term], relative_u, refused) for term in names),
            covariance=Covariance(names=tuple(known), matrix=tuple(tuple(row) for row in matrix.tolist())),
        )
    )


def _coefficient(term: str, value: float, relative_u: float, refused: frozenset[str]) -> Coefficient:
    if term in refused:
        return Coefficient(
            name=term,
            unit=TERMS[term].unit,
            status="refused",
            provenance="simulated",
            reason="not identified",
        )
    return Coefficient(
        name=term,
        unit=TERMS[term].unit,
        value=value,
        standard_uncertainty=relative_u * value,
        ci95=(value * max(1 - 2 * relative_u, 0), value * (1 + 2 * relative_u)),
        status="identified",
        provenance="simulated",
    )
