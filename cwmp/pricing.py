"""How work becomes the price of a coordinate: the model, the link, everything that is not the network.

Time costs too: each phase keeps all cores busy for as long as its roofline says, at the awake and core power
of the model. Idle power is in no price: the device idles anyway, and measured joules are compared net of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Literal, get_args

from calibration_data import MemoryHierarchy, Provenance, UsageError, Work
from calibration_data.records import DeviceFingerprint
from cost_models import CostModel, Estimate
from cwmp.errors import InvalidCostError, UnknownMemoryError
from cwmp.links import Link
from cwmp.op_counts import (
    APPLY_FLOP,
    HEADER_BYTES,
    IndexCoding,
    Phase,
    Touched,
    apply_work,
    expected_touched,
    index_bytes,
    line_coordinates,
    scan_work,
)
from cwmp.roofline import Roofline
from cwmp.tensors import TensorLayout, residence
from cwmp.work_table import UnitWork, WorkTable

Boundary = Literal["update", "update+uplink"]
"""What is inside the joules: the device's memory and arithmetic, or also sending what is kept."""

_WORSE_TO_THE_RIGHT: tuple[Provenance, ...] = ("measured", "inferred", "literature", "simulated")


@dataclass(frozen=True, kw_only=True)
class BlockPrice:
    """A price in two parts: joules = open_j·(lines touched) + element_j·(coordinates kept).

    Attributes:
        line_coordinates: coordinates in one line.
        open_j: joules of a line with anything kept in it, DRAM rows at the stated density included.
        element_j: joules of each kept coordinate beyond that, uplink included.
    """

    line_coordinates: int
    open_j: float
    element_j: float


@dataclass(frozen=True, kw_only=True)
class TensorCost:
    """Cost of one tensor's coordinates.

    Attributes:
        layout: the tensor.
        level: where it lives.
        density: kept fraction at which it is priced.
        value_j: joules per kept coordinate, the uplink included where it is inside the boundary.
        uplink_j: the part of the price that the link takes.
        fixed_work: work of the whole tensor that is done whatever is kept, with its seconds.
        estimate: gives ``price_j``, once it is asked for; selecting needs only its value.
        count: gives ``work``, likewise.
        split: gives ``block``.
    """

    layout: TensorLayout
    level: str
    density: float
    value_j: float
    uplink_j: float
    fixed_work: Work
    estimate: Callable[[], Estimate] = field(compare=False, repr=False)
    count: Callable[[], Mapping[Phase, Work]] = field(compare=False, repr=False)
    split: Callable[[], BlockPrice] = field(compare=False, repr=False)

    @cached_property
    def price_j(self) -> Estimate:
        """``value_j`` with its uncertainty."""
        return self.estimate()

    @cached_property
    def work(self) -> Mapping[Phase, Work]:
        """Exact work per kept coordinate by phase, with its seconds."""
        return self.count()

    @cached_property
    def block(self) -> BlockPrice:
        """The price in two parts."""
        return self.split()


@dataclass(frozen=True, kw_only=True)
class Pricing:
    """Everything but the network that decides a price.

    Attributes:
        model: costs of elementary operations on the device.
        boundary: what is inside the joules.
        link: what sends, if sending is inside.
        index_coding: how the message says which coordinate a value belongs to.
        optimizer_streams: optimiser states per weight: 0 SGD, 1 momentum, 2 Adam, 3 AMSGrad.

    Raises:
        UsageError: boundary and link do not fit, or the coding or the optimiser is unknown.
    """

    model: CostModel
    boundary: Boundary
    link: Link | None
    index_coding: IndexCoding
    optimizer_streams: int

    def __post_init__(self) -> None:
        if self.boundary not in get_args(Boundary):
            raise UsageError(
                f"{self.boundary!r} is no boundary of these prices.",
                next_step=f"Boundaries: {', '.join(get_args(Boundary))}.",
            )
        if self.boundary == "update+uplink" and self.link is None:
            raise UsageError(
                "The boundary update+uplink needs a link.", next_step="Name one, such as wifi-2012."
            )
        if self.boundary == "update" and self.link is not None:
            raise UsageError(
                "A link costs nothing inside the boundary update.", next_step="Use update+uplink."
            )
        if self.index_coding not in get_args(IndexCoding):
            raise UsageError(
                f"{self.index_coding!r} is no index coding.",
                next_step=f"Codings: {', '.join(get_args(IndexCoding))}.",
            )
        if not 0 <= self.optimizer_streams < len(APPLY_FLOP):
            raise UsageError(
                f"An optimiser with {self.optimizer_streams} states per weight has no work counts.",
                next_step=f"Give 0 to {len(APPLY_FLOP) - 1}.",
            )

    @cached_property
    def device(self) -> DeviceFingerprint:
        """What the joules are of.

        Raises:
            UnknownMemoryError: the model does not say.
        """
        return device_of(self.model)

    @cached_property
    def memory(self) -> MemoryHierarchy:
        """Cache and line sizes of the device."""
        return self.device.memory

    def tensor_costs(
        self,
        layouts: Sequence[TensorLayout],
        densities: Sequence[float],
        *,
        units: UnitWork,
        fixed_works: Sequence[Work],
    ) -> list[TensorCost]:
        """Price the coordinates of some tensors, which are a network.

        Args:
            layouts: the tensors.
            densities: kept fraction of each, in (0, 1].
            units: of the tensors, from ``unit_work``.
            fixed_works: of each, from ``fixed_work``.

        Raises:
            MissingCoefficientError: the model does not know a cost or a rate that is needed.
            InvalidCostError: a coordinate would cost nothing.
        """
        full = all(density == 1 for density in densities)
        touched = [
            expected_touched(layout, self.memory, density)
            for layout, density in zip(layouts, densities, strict=True)
        ]
        works = self.marginal_work(layouts, units, touched, densities, full_message=full)
        both = WorkTable(works["pack"].amounts + works["apply"].amounts)
        return [
            self._tensor_cost(
                layout,
                density,
                touched[place],
                both[place],
                uplink=self.uplink_j(self.pair_bytes(layout, density, full_message=full)),
                fixed_work=fixed_works[place],
                count=partial(_at_place, works, place),
            )
            for place, (layout, density) in enumerate(zip(layouts, densities, strict=True))
        ]

    def _tensor_cost(
        self,
        layout: TensorLayout,
        density: float,
        touched: Touched,
        work: Work,
        *,
        uplink: Estimate,
        fixed_work: Work,
        count: Callable[[], Mapping[Phase, Work]],
    ) -> TensorCost:
        value_j = self.model.value_j(work) + uplink.value
        if not (math.isfinite(value_j) and value_j > 0):
            raise InvalidCostError(
                f"Keeping a coordinate of {layout.name} would cost {value_j} J.",
                next_step="Check the cost model: every coefficient that this work needs is zero.",
            )
        return TensorCost(
            layout=layout,
            level=self.level(layout),
            density=density,
            value_j=value_j,
            uplink_j=uplink.value,
            fixed_work=fixed_work,
            estimate=lambda: added(self.model.predict_j(work), uplink),
            count=count,
            split=lambda: self._block(layout, touched, value_j),
        )

    def fixed_work(self, layout: TensorLayout) -> Work:
        """Work of a whole tensor that is done whatever is kept, with its seconds."""
        return self.timed(scan_work(layout, self.level(layout), self.memory))

    def unit_work(self, layouts: Sequence[TensorLayout]) -> UnitWork:
        """What ``marginal_work`` multiplies."""
        return UnitWork.of(layouts, self.memory, self.optimizer_streams)

    def marginal_work(
        self,
        layouts: Sequence[TensorLayout],
        units: UnitWork,
        touched: Sequence[Touched],
        densities: Sequence[float],
        *,
        full_message: bool,
    ) -> dict[Phase, WorkTable]:
        """Work of keeping some coordinates of each tensor by phase, with its seconds.

        Args:
            layouts: the tensors.
            units: of them.
            touched: what is kept of each.
            densities: at which the indices of each are coded.
            full_message: every coordinate of the network is sent, so that no indices are needed.
        """
        pair_bytes = [
            self.pair_bytes(layout, density, full_message=full_message)
            for layout, density in zip(layouts, densities, strict=True)
        ]
        both = units.pack(touched, pair_bytes).followed_by(units.apply(touched))
        timed = self.timed_table(both)
        return {"pack": timed[: len(layouts)], "apply": timed[len(layouts) :]}

    def level(self, layout: TensorLayout) -> str:
        """Where the tensor lives."""
        return residence(layout, self.memory, self.optimizer_streams)

    def pair_bytes(self, layout: TensorLayout, density: float, *, full_message: bool) -> float:
        """Bytes of one (value, index) pair."""
        coded = 0.0 if full_message else index_bytes(self.index_coding, density)
        return layout.element_bytes + coded

    def uplink_j(self, payload_bytes: float) -> Estimate:
        """Joules of sending; zero where the link is outside the boundary."""
        return self._of_link(0.0 if self.link is None else self.link.uplink_j(payload_bytes))

    def fixed_link_j(self) -> Estimate:
        """Joules of waking the link, as far as its source gives them, and of sending the message's header."""
        if self.link is None:
            return self._of_link(0.0)
        return self._of_link((self.link.wake_j or 0.0) + self.link.uplink_j(HEADER_BYTES[self.index_coding]))

    def timed(self, work: Work) -> Work:
        """The same work with the seconds that all cores are awake and busy with it."""
        return self.timed_table(WorkTable.of([work]))[0]

    def timed_table(self, table: WorkTable) -> WorkTable:
        """The same for each of some works."""
        if self.model.document.time_attribution != "active":
            return table
        return self._roofline.timed(table)

    @cached_property
    def _roofline(self) -> Roofline:
        return Roofline(self.model, self.memory.cores)

    def provenance(self, works: Iterable[Work]) -> Provenance:
        """The worst provenance of the model, of the coefficients that the works use, and of the link."""
        of_model = worst_provenance(self.model, total_work(works))
        parts = [of_model] if self.link is None else [of_model, "literature"]
        return worst_of(parts)

    def notes(self, works: Iterable[Work]) -> tuple[str, ...]:
        """What a reader of the prices of these works must know."""
        notes = []
        used = total_work(works)
        limits = [c.name for c in self.model.coefficients.values() if c.status == "bounded" and used[c.name]]
        if limits:
            notes.append(f"Only limits are known of {', '.join(limits)}; the middle between them is charged.")
        if self.model.document.time_attribution != "active":
            notes.append("The cost model has no awake power of its own; time is not charged.")
        if self.link is not None and self.link.wake_j is None:
            notes.append(
                f"The wake energy of {self.link.name} is not published; it is not in the fixed joules."
            )
        if self.link is not None and self.link.relative_u is None:
            notes.append(f"The source of {self.link.name} states no uncertainty; its joules carry none.")
        return tuple(notes)

    def _apply(self, layout: TensorLayout, touched: Touched) -> Work:
        return apply_work(layout, self.level(layout), self.memory, touched, self.optimizer_streams)

    def _of_link(self, joules: float) -> Estimate:
        relative_u = 0.0 if self.link is None else self.link.relative_u or 0.0
        return Estimate(value=joules, standard_uncertainty=joules * relative_u)

    def _block(self, layout: TensorLayout, touched: Touched, price_j: float) -> BlockPrice:
        """Split a price; the seconds of apply go to lines and elements as each alone would take them."""
        lines = self._apply(layout, Touched(kept=0, lines=touched.lines, rows=touched.rows))
        elements = self._apply(layout, Touched(kept=touched.kept, lines=0, rows=0))
        open_j = self.model.predict_j(lines + self._seconds_of(lines, elements)).value / touched.lines
        return BlockPrice(
            line_coordinates=line_coordinates(layout, self.memory),
            open_j=open_j,
            element_j=max(price_j - open_j * touched.lines, 0.0),
        )

    def _seconds_of(self, part: Work, rest: Work) -> Work:
        """The share of a part in the seconds of the whole; none where time is not charged."""
        if self.model.document.time_attribution != "active":
            return Work()
        part_s, rest_s = self.model.duration_s(part), self.model.duration_s(rest)
        whole = self.timed(part + rest)
        return Work({name: whole[name] * part_s / (part_s + rest_s) for name in ("awake_w", "core_w")})


def device_of(model: CostModel) -> DeviceFingerprint:
    """What the joules of a model are of.

    Raises:
        UnknownMemoryError: the model does not say.
    """
    if model.device is None:
        raise UnknownMemoryError(
            "The cost model describes no device, so it is not known which tensors fit into which cache.",
            next_step="Use a model that was fitted to records: calijoule profile, calijoule fit.",
        )
    return model.device


def worst_provenance(model: CostModel, work: Work) -> Provenance:
    """The worst provenance of a model and of its coefficients that some work uses."""
    used = [item.provenance for name, item in model.coefficients.items() if name in work.amounts]
    return worst_of([model.provenance, *used])


def worst_of(provenances: Iterable[Provenance]) -> Provenance:
    """What joules from several sources are worth together."""
    return max(provenances, key=_WORSE_TO_THE_RIGHT.index)


def total_work(works: Iterable[Work]) -> Work:
    """Sum of works."""
    return works.total if isinstance(works, WorkTable) else sum(works, start=Work())


def _at_place(works: Mapping[Phase, WorkTable], place: int) -> dict[Phase, Work]:
    """Those of one tensor."""
    return {phase: table[place] for phase, table in works.items()}


def added(first: Estimate, second: Estimate) -> Estimate:
    """Sum of two uncorrelated estimates, with the degrees of freedom of Welch and Satterthwaite."""
    variances = [part.standard_uncertainty**2 for part in (first, second)]
    weighted = sum(
        variance**2 / part.degrees_of_freedom
        for variance, part in zip(variances, (first, second), strict=True)
    )
    return Estimate(
        value=first.value + second.value,
        standard_uncertainty=math.sqrt(sum(variances)),
        degrees_of_freedom=sum(variances) ** 2 / weighted if weighted else math.inf,
    )
