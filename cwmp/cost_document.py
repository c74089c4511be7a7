"""The costs file: what one gradient coordinate of each tensor costs, for whoever selects with it.

Three levels of detail per tensor: a price at a stated density, the same in two parts (open a line, then each
element), and the exact work per coordinate, from which joules follow with any cost model of the device. The
file also says how much there is to gain from prices at all. Nothing in it is executed; its size is bounded.

History of the format:
    1   first version
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from calibration_data import TERMS, Provenance, UsageError
from calibration_data.files import Frozen, read_model, write_whole
from calibration_data.records import DeviceFingerprint
from cost_models import Estimate
from cwmp.cost_vector import CostVector
from cwmp.op_counts import IndexCoding
from cwmp.predicted_gain import Gain, predicted_gains, price_groups, second_order_gain, verdict
from cwmp.pricing import Boundary, TensorCost

COSTS_SCHEMA: Final = "calijoule/costs"
COSTS_SCHEMA_VERSION: Final = 1
MAX_FILE_BYTES: Final = 64_000_000

Name = Annotated[str, Field(min_length=1, max_length=1000)]
Text = Annotated[str, Field(max_length=2000)]
Share = Annotated[float, Field(ge=0, le=1)]
Density = Annotated[float, Field(gt=0, le=1)]


def _only_terms(amounts: dict[str, float]) -> dict[str, float]:
    for name in amounts:
        if name not in TERMS:
            raise ValueError(f"{name!r} is not a term of the energy model")
    return amounts


Amounts = Annotated[dict[Name, NonNegativeFloat], Field(max_length=len(TERMS)), AfterValidator(_only_terms)]


class Joules(Frozen):
    """Joules with their standard uncertainty."""

    value: NonNegativeFloat
    standard_uncertainty: NonNegativeFloat


class BlockEntry(Frozen):
    """A price in two parts: open_j for a line with anything kept in it, element_j for each kept element."""

    line_coordinates: PositiveInt
    open_j: NonNegativeFloat
    element_j: NonNegativeFloat


class WorkEntry(Frozen):
    """Exact amounts by term, the seconds of the power terms included.

    Attributes:
        pack: per kept coordinate, in the first phase.
        apply: per kept coordinate, in the second phase, lines shared as at the stated density.
        fixed: of the whole tensor, whatever is kept.
    """

    pack: Amounts
    apply: Amounts
    fixed: Amounts


class TensorEntry(Frozen):
    """Costs of one tensor.

    Attributes:
        name: as in ``named_parameters``.
        shape: lengths of its dimensions.
        numel: number of its coordinates.
        element_bytes: size of one element.
        level: memory level in which it lives.
        density: kept fraction at which it is priced.
        price_j: joules per kept coordinate.
        standard_uncertainty_j: of the price.
        uplink_j: the part of the price that the link takes.
        block: the price in two parts.
        work: the exact work behind it.
    """

    name: Name
    shape: Annotated[tuple[NonNegativeInt, ...], Field(max_length=16)]
    numel: PositiveInt
    element_bytes: PositiveInt
    level: Literal["l1", "l2", "llc", "dram"]
    density: Density
    price_j: PositiveFloat
    standard_uncertainty_j: NonNegativeFloat
    uplink_j: NonNegativeFloat
    block: BlockEntry
    work: WorkEntry


class LinkEntry(Frozen):
    """What sends, and what that costs.

    Attributes:
        name: of the link.
        up_nj_per_bit: marginal energy of a sent bit.
        kappa: bits on the link per bit of payload.
        wake_j: fixed energy per round; null if not published.
        year: of the measurement.
        source: where the figures come from.
    """

    name: Name
    up_nj_per_bit: PositiveFloat
    kappa: Annotated[float, Field(ge=1)]
    wake_j: NonNegativeFloat | None
    year: int
    source: Text


class GainEntry(Frozen):
    """Share of the squared norm kept at one budget, for Laplace gradients of equal scale in all tensors.

    Attributes:
        budget_share: budget as a share of the joules of keeping every coordinate.
        topk: kept by the largest |g|.
        cwmp_l1: kept by the largest |g|/c.
        cwmp: kept by the largest g²/c.
        second_order_gain: cwmp over topk by the expansion in Var(ln c).
    """

    budget_share: Density
    topk: Share
    cwmp_l1: Share
    cwmp: Share
    second_order_gain: NonNegativeFloat


class CostsDocument(Frozen):
    """One cost vector as it is written.

    Attributes:
        provenance: the worst of the parts.
        created: when, ISO 8601.
        device: what the joules are of.
        cost_model_created: when the cost model behind the prices was made.
        boundary: what is inside the joules.
        link: what sends; null where sending is outside.
        index_coding: how a message says which coordinate a value belongs to.
        optimizer_streams: optimiser states per weight.
        tensors: in the order of the network.
        fixed_j: joules whatever is kept: the scan, the launches, waking the link.
        var_ln_c: variance of ln(price) over coordinates.
        gains: what prices are predicted to bring.
        verdict: the same in one sentence.
        notes: what a reader must know.
    """

    schema_name: Literal["calijoule/costs"] = Field(default=COSTS_SCHEMA, alias="schema")
    schema_version: Literal[1] = COSTS_SCHEMA_VERSION
    provenance: Provenance
    created: Name
    device: DeviceFingerprint
    cost_model_created: Name
    boundary: Boundary
    link: LinkEntry | None
    index_coding: IndexCoding
    optimizer_streams: Annotated[int, Field(ge=0, le=3)]
    tensors: Annotated[tuple[TensorEntry, ...], Field(min_length=1, max_length=100_000)]
    fixed_j: Joules
    var_ln_c: NonNegativeFloat
    gains: Annotated[tuple[GainEntry, ...], Field(max_length=100)]
    verdict: Text
    notes: Annotated[tuple[Text, ...], Field(max_length=100)] = ()

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_by_name=True, validate_by_alias=True
    )

    @model_validator(mode="after")
    def _consistent(self) -> CostsDocument:
        names = [tensor.name for tensor in self.tensors]
        if len(set(names)) != len(names):
            raise ValueError("a tensor is given twice")
        if (self.link is None) != (self.boundary == "update"):
            raise ValueError(f"the boundary {self.boundary} does not fit its link")
        return self

    @property
    def prices_j(self) -> dict[str, float]:
        """Joules per kept coordinate by tensor: the costs that ``select`` takes."""
        return {tensor.name: tensor.price_j for tensor in self.tensors}

    def marginal_j(self, kept: Mapping[str, float], lines: Mapping[str, float]) -> float:
        """Joules of kept coordinates and of the lines that they touch, by the prices in two parts.

        Args:
            kept: number of kept coordinates by tensor.
            lines: number of lines with anything kept in them by tensor.

        Raises:
            UsageError: a tensor is not in the file.
        """
        blocks = {tensor.name: tensor.block for tensor in self.tensors}
        unknown = [name for name in (*kept, *lines) if name not in blocks]
        if unknown:
            raise UsageError(f"The costs file has no tensor {unknown[0]}.")
        return sum(
            block.element_j * kept.get(name, 0) + block.open_j * lines.get(name, 0)
            for name, block in blocks.items()
        )


def costs_document(vector: CostVector, *, created: datetime) -> CostsDocument:
    """A cost vector as it is written."""
    pricing, gains = vector.pricing, predicted_gains(price_groups(vector))
    link = pricing.link
    return CostsDocument(
        provenance=vector.provenance,
        created=created.isoformat(timespec="seconds"),
        device=pricing.device,
        cost_model_created=pricing.model.document.created,
        boundary=pricing.boundary,
        link=None
        if link is None
        else LinkEntry(
            name=link.name,
            up_nj_per_bit=link.up_nj_per_bit,
            kappa=link.kappa,
            wake_j=link.wake_j,
            year=link.year,
            source=link.source,
        ),
        index_coding=pricing.index_coding,
        optimizer_streams=pricing.optimizer_streams,
        tensors=tuple(_tensor_entry(cost) for cost in vector.tensors.values()),
        fixed_j=_joules(vector.fixed_j),
        var_ln_c=vector.var_ln_c,
        gains=tuple(_gain_entry(gain, vector.var_ln_c) for gain in gains),
        verdict=verdict(vector.var_ln_c, gains),
        notes=vector.notes,
    )


def save_costs(path: Path, document: CostsDocument) -> None:
    """Write the file whole or not at all.

    Raises:
        UsageError: the file cannot be written there.
    """
    write_whole(path, document.model_dump_json(by_alias=True, indent=1) + "\n")


def load_costs(path: Path) -> CostsDocument:
    """The costs of a file.

    Raises:
        InvalidFileError: it is missing, too large, no JSON, of another schema or version, or breaks the
            schema; one line, with the name of the field.
    """
    return read_model(
        path,
        CostsDocument,
        limit_bytes=MAX_FILE_BYTES,
        next_step="Make one with: calijoule export.",
        strict=True,
    )


def costs_json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a costs file, as written in ``cwmp/schema``."""
    return CostsDocument.model_json_schema(by_alias=True)


def _tensor_entry(cost: TensorCost) -> TensorEntry:
    return TensorEntry(
        name=cost.layout.name,
        shape=cost.layout.shape,
        numel=cost.layout.numel,
        element_bytes=cost.layout.element_bytes,
        level=cost.level,
        density=cost.density,
        price_j=cost.value_j,
        standard_uncertainty_j=cost.price_j.standard_uncertainty,
        uplink_j=cost.uplink_j,
        block=BlockEntry(
            line_coordinates=cost.block.line_coordinates,
            open_j=cost.block.open_j,
            element_j=cost.block.element_j,
        ),
        work=WorkEntry(
            pack=dict(cost.work["pack"]), apply=dict(cost.work["apply"]), fixed=dict(cost.fixed_work)
        ),
    )


def _gain_entry(gain: Gain, var_ln_c: float) -> GainEntry:
    return GainEntry(
        budget_share=gain.budget_share,
        topk=min(gain.topk, 1.0),
        cwmp_l1=min(gain.cwmp_l1, 1.0),
        cwmp=min(gain.cwmp, 1.0),
        second_order_gain=second_order_gain(gain.budget_share, var_ln_c),
    )


def _joules(estimate: Estimate) -> Joules:
    return Joules(value=estimate.value, standard_uncertainty=estimate.standard_uncertainty)
