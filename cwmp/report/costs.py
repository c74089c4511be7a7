"""The report's section on prices: joules per gradient coordinate, and what there is to gain from them."""

from __future__ import annotations

from cost_models.engineering import quantity, quantity_with_uncertainty
from cwmp.cost_document import CostsDocument, TensorEntry
from cwmp.report.markup import Html, bullets, element, join, paragraph, percent, table

MAX_TENSORS = 60
"""Rows of the table of prices; a large network has more tensors than anyone reads."""

COVERAGE_FACTOR = 2.0


def costs_section(costs: CostsDocument) -> Html:
    """The price of a gradient coordinate of each tensor, and what there is to gain from prices."""
    shown = costs.tensors[:MAX_TENSORS]
    head = (
        "tensor",
        "shape",
        "coordinates",
        "lives in",
        "density",
        "price ± U (k = 2)",
        "a line",
        "an element",
    )
    parts = [
        paragraph(_boundary_in_words(costs)),
        table(
            "Joules of keeping one gradient coordinate, by tensor.",
            costs.provenance,
            head,
            (_tensor_row(tensor) for tensor in shown),
            numeric=(2, 4, 5, 6, 7),
        ),
    ]
    if len(costs.tensors) > len(shown):
        parts.append(paragraph(f"{len(costs.tensors) - len(shown)} more tensors are in the costs file."))
    parts += [
        paragraph(
            "The price holds at the stated density, at which neighbours share lines of memory. "
            "In two parts, it is the joules of opening a line and those of each element kept in it. "
            "Marginal joules are those of everything that is kept, without the fixed ones."
        ),
        table(
            "Squared norm that each rule is predicted to keep (Laplace gradients of equal scale).",
            costs.provenance,
            ("budget, share of marginal joules", "topk", "cwmp-l1", "cwmp", "cwmp over topk"),
            (
                (
                    f"{100 * gain.budget_share:g} %",
                    *(percent(share) for share in (gain.topk, gain.cwmp_l1, gain.cwmp)),
                    f"{100 * (gain.cwmp - gain.topk):+.2f} points",
                )
                for gain in costs.gains
            ),
            numeric=(0, 1, 2, 3, 4),
        ),
        paragraph(element("b", f"Var(ln c) = {costs.var_ln_c:.3g}. "), costs.verdict),
    ]
    return join([*parts, bullets(costs.notes) if costs.notes else ""])


def _boundary_in_words(costs: CostsDocument) -> str:
    link = costs.link
    inside = (
        "memory and compute on the device"
        if link is None
        else f"memory and compute on the device, and sending over {link.name} ({link.source})"
    )
    fixed = quantity_with_uncertainty(
        costs.fixed_j.value, COVERAGE_FACTOR * costs.fixed_j.standard_uncertainty, "J"
    )
    return (
        f"Boundary “{costs.boundary}”: {inside}. Whatever is kept, scanning the gradient and launching the "
        f"kernels costs {fixed} per client and round."
    )


def _tensor_row(tensor: TensorEntry) -> tuple[object, ...]:
    return (
        element("code", tensor.name),
        " × ".join(str(length) for length in tensor.shape) or "scalar",
        f"{tensor.numel:,}",
        tensor.level.upper(),
        percent(tensor.density),
        quantity_with_uncertainty(tensor.price_j, COVERAGE_FACTOR * tensor.standard_uncertainty_j, "J"),
        quantity(tensor.block.open_j, "J"),
        quantity(tensor.block.element_j, "J"),
    )
