"""Work and predicted joules of the phases of a client's round, joined with what sensors saw of them.

    phase      work                                                        inside the boundary of the budget
    train      steps of local SGD, counted from their own operations       no: sunk before the budget begins
    select     scan of every gradient, launches                            yes, fixed
    pack       kept coordinates into the message                           yes
    uplink     payload times the link's joules per bit, and waking it      yes, if the boundary has a link
    aggregate  message into the server's float64 sum                       no: the server's
    apply      update of the kept coordinates of the weights               yes

Select, pack, uplink and apply together are the predicted joules that the budget limits; they go through the
tensors one after the other, each as fast as its own slowest resource allows. The server is priced as if it
were the same device. Coding the indices is counted by the bytes that it writes and reads; the arithmetic of
its bits, some integer operations for each kept coordinate on either side, is in no prediction.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace

from calibration_data import MemoryHierarchy, Work
from cost_models import Estimate, MissingCoefficientError
from cwmp.budget import PHASES, Phase
from cwmp.cost_vector import CostVector, MaskCost
from cwmp.op_counts import count_touched
from cwmp.pricing import total_work
from cwmp.selection.result import Mask
from cwmp.tensors import TensorLayout
from cwmp.training.phase_energy import PhaseEnergy
from cwmp.training.phase_meter import Seen, Works
from cwmp.work_table import UnitWork, WorkTable
from profiler.microbenchmark import traffic

ACCUMULATOR_BYTES = 8


def client_works(
    costs: CostVector, cost: MaskCost, masks: Mapping[str, Mask], training: Work, payload_bytes: int
) -> dict[Phase, Works]:
    """Work of every phase of one client and round, in parts that follow each other.

    The uplink does none on the device.

    Args:
        costs: prices of the network.
        cost: of the masks.
        masks: kept coordinates by tensor.
        training: of the local steps.
        payload_bytes: of the message.
    """
    return {
        "train": (training,),
        "select": tuple(part.fixed_work for part in costs.tensors.values()),
        "pack": cost.works["pack"],
        "uplink": (),
        "aggregate": aggregate_works(costs, masks, payload_bytes),
        "apply": cost.works["apply"],
    }


def aggregate_works(costs: CostVector, masks: Mapping[str, Mask], payload_bytes: int) -> WorkTable:
    """Work of adding one message to the server's sum: read it, then update float64 lines where they live."""
    memory = costs.pricing.memory
    reading = traffic(memory, "l2", element_bytes=payload_bytes, read_bytes=payload_bytes, written_bytes=0)
    layouts, units = _accumulator(costs.layouts, memory)
    touched = [count_touched(layout, memory, masks[layout.name]) for layout in layouts]
    return WorkTable.of([reading + Work({"launch": 1})]).followed_by(units.apply(touched))


@functools.lru_cache(maxsize=8)
def _accumulator(
    layouts: tuple[TensorLayout, ...], memory: MemoryHierarchy
) -> tuple[tuple[TensorLayout, ...], UnitWork]:
    """The server's sum, tensor by tensor, and what adding to it takes."""
    sums = tuple(
        replace(layout, element_bytes=ACCUMULATOR_BYTES, flop_term="flop_fp64") for layout in layouts
    )
    return sums, UnitWork.of(sums, memory, 0)


def client_energy(
    costs: CostVector, cost: MaskCost, works: Mapping[Phase, Works], seen: Mapping[Phase, Seen]
) -> dict[Phase, PhaseEnergy]:
    """Joules of every phase of one client and round, predicted beside seen."""
    return {phase: _joined(_predicted(costs, cost, phase, works[phase]), seen[phase]) for phase in PHASES}


def _predicted(costs: CostVector, cost: MaskCost, phase: Phase, works: Works) -> Estimate | str:
    """Joules of a phase net of idle power, or why the model cannot know them."""
    pricing = costs.pricing
    if phase == "uplink":
        fixed_j = pricing.fixed_link_j()
        return Estimate(
            value=cost.uplink_j.value + fixed_j.value,
            standard_uncertainty=cost.uplink_j.standard_uncertainty + fixed_j.standard_uncertainty,
        )
    try:
        # Those of the other phases come with their seconds, from the prices.
        untimed = phase in ("train", "aggregate")
        return pricing.model.predict_j(
            total_work(pricing.timed_table(WorkTable.of(works)) if untimed else works)
        )
    except MissingCoefficientError as error:
        return error.message


def _joined(predicted: Estimate | str, seen: Seen) -> PhaseEnergy:
    known = isinstance(predicted, Estimate)
    reasons = [reason for reason in (None if known else predicted, seen.reason) if reason]
    return PhaseEnergy(
        predicted_j=predicted.value if isinstance(predicted, Estimate) else None,
        predicted_u_j=predicted.standard_uncertainty if isinstance(predicted, Estimate) else None,
        measured_j=seen.energy_j,
        measured_u_j=seen.standard_uncertainty_j,
        provenance=seen.provenance,
        replays=seen.replays,
        reason=" ".join(map(str, reasons)) or None,
    )
