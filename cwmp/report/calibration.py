"""The report's sections on the device and its cost model: what was run, what it costs, how well that fits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from calibration_data import TERMS, CounterSpec
from calibration_data.records import CalibrationRecord, DeviceFingerprint
from cost_models import Coefficient, CostModel
from cost_models.engineering import interval, quantity, quantity_with_uncertainty
from cost_models.identification import MAX_VIF
from cost_models.plausibility import published_range
from cost_models.plots import plot_coefficients, plot_measured_vs_predicted, plot_residuals_by_family
from cost_models.validation import GOOD_CONDITION_NUMBER, findings
from cwmp.report.contents import ReportContents
from cwmp.report.markup import (
    Html,
    badge,
    bullets,
    element,
    figure,
    join,
    paragraph,
    percent,
    properties,
    table,
)
from cwmp.report.plots import svg_data_uri
from cwmp.report.words import in_words

COVERAGE_FACTOR = 2.0


def device_section(records: Sequence[CalibrationRecord], model: CostModel | None) -> Html:
    """Which device it was, how it was sensed, and what was run on it."""
    device = records[0].device if records else model.device if model else None
    provenance = records[0].provenance if records else model.provenance if model else "literature"
    parts: list[Html] = []
    if device is None:
        parts.append(paragraph("The cost model comes from the literature and describes no single device."))
    else:
        parts.append(properties("Device.", provenance, _device_rows(device)))
    if records:
        parts.append(_sensors_table(records[0].sensors, provenance))
        parts.append(properties("Campaign.", provenance, _campaign_rows(records)))
    else:
        parts.append(paragraph("The records are not in this folder, so its sensors are not listed."))
    return join(parts)


def coefficients_section(model: CostModel) -> Html:
    """The cost of every elementary operation, and what was refused."""
    given = [item for item in model.coefficients.values() if item.status != "refused"]
    refused = [item for item in model.coefficients.values() if item.status == "refused"]
    head = ("operation", "value ± U (k = 2)", "95 % interval", "status", "joules are", "published range")
    rows = [_coefficient_row(model, item) for item in given]
    origins = in_words({item.provenance for item in given} | {model.provenance})
    parts = [
        table("Cost of one elementary operation.", origins, head, rows, numeric=(1, 2)),
        *_refused(refused, model.provenance),
        figure(
            svg_data_uri(lambda: plot_coefficients(model)),
            "Every coefficient with its 95 % interval",
            "Coefficients with their 95 % intervals; grey: the published range.",
            origins,
        ),
    ]
    return join(parts)


def fit_section(contents: ReportContents) -> Html:
    """Windows beside what the model predicts for them."""
    model, records = contents.model, contents.records
    if model is None or not records:
        return paragraph("The records are not in this folder, so no window can be compared.")
    seen_as = records[0].provenance
    whose = "" if contents.fitted_here else " The cost model was fitted to other records than these."
    return join(
        (
            figure(
                svg_data_uri(lambda: plot_measured_vs_predicted(model, records)),
                f"Predicted against {seen_as} joules of every window",
                f"Predicted against {seen_as} joules of every replicate window, by family.{whose}",
                seen_as,
            ),
            figure(
                svg_data_uri(lambda: plot_residuals_by_family(model, records)),
                "Relative error of every window by family",
                f"Relative error of the prediction of every replicate window, by family.{whose}",
                seen_as,
            ),
        )
    )


def _device_rows(device: DeviceFingerprint) -> Iterator[tuple[object, object]]:
    memory = device.memory
    yield "device", device.device
    yield "model", device.model_name
    yield "kind", device.kind
    yield "cores", memory.cores
    caches = [("L1", memory.l1_bytes), ("L2", memory.l2_bytes), ("last level", memory.llc_bytes)]
    yield "caches", ", ".join(f"{name} {_size(held)}" for name, held in caches if held is not None)
    yield "line of memory", _size(memory.line_bytes)


def _sensors_table(sensors: Sequence[CounterSpec], provenance: str) -> Html:
    head = ("domain", "kind", "interface", "source", "update period", "resolution", "wraps at", "leaves out")
    return table("Sensors.", provenance, head, (_sensor_row(spec) for spec in sensors), numeric=(4, 5, 6))


def _sensor_row(spec: CounterSpec) -> tuple[object, ...]:
    return (
        spec.domain,
        spec.kind,
        spec.interface,
        spec.source,
        "unknown" if spec.update_period_s is None else quantity(spec.update_period_s, "s"),
        "unknown" if spec.resolution_uj is None else quantity(spec.resolution_uj * 1e-6, "J"),
        "never" if spec.range_uj is None else quantity(spec.range_uj * 1e-6, "J"),
        spec.excludes or "—",
    )


def _campaign_rows(records: Sequence[CalibrationRecord]) -> Iterator[tuple[object, object]]:
    campaign = records[0].campaign
    yield "plan", f"{campaign.plan}, seed {campaign.seed}"
    yield "configurations", len(records)
    yield "families", ", ".join(sorted({record.family for record in records}))
    yield "replicate windows", sum(len(record.replicates) for record in records)
    yield "dropped windows", sum(len(record.dropped) for record in records)
    yield "first and last record", f"{records[0].created} … {records[-1].created}"
    yield "software", ", ".join(f"{name} {version}" for name, version in sorted(records[0].software.items()))
    for name in sorted({name for record in records for name in record.conditions}):
        yield name, ", ".join(sorted({record.conditions.get(name, "unknown") for record in records}))


def _coefficient_row(model: CostModel, item: Coefficient) -> tuple[object, ...]:
    return (
        _operation(item.name),
        _value(item),
        interval(*item.ci95, item.unit) if item.ci95 else "—",
        item.status if item.status == "identified" else join((item.status, element("small", item.reason))),
        badge(item.provenance),
        _published(model, item.name),
    )


def _published(model: CostModel, name: str) -> object:
    published = published_range(model.device, name)
    if published is None:
        return "none found"
    return join(
        (interval(published.low, published.high, TERMS[name].unit), element("small", published.source))
    )


def _operation(name: str) -> Html:
    return join((element("code", name), element("small", TERMS[name].meaning)))


def _value(item: Coefficient) -> str:
    if item.value is None or item.standard_uncertainty is None:
        return "—"
    if item.standard_uncertainty == 0:
        return f"{quantity(item.value, item.unit)}, taken as exact"
    return quantity_with_uncertainty(item.value, COVERAGE_FACTOR * item.standard_uncertainty, item.unit)


def _refused(refused: Sequence[Coefficient], provenance: str) -> Iterator[Html]:
    if not refused:
        yield paragraph("No coefficient was refused.")
        return
    rows = ((_operation(item.name), item.reason) for item in refused)
    yield table(
        "Refused: what the data cannot tell. No number is given.",
        provenance,
        ("operation", "reason"),
        rows,
    )


def diagnostics_section(model: CostModel) -> Html:
    """How well the fit is determined, and how well it predicts what it has not seen."""
    found = model.document.diagnostics
    parts = [
        table(
            "Diagnostics of the fit.",
            model.provenance,
            ("quantity", "value", "how to read it"),
            _diagnostic_rows(model),
            numeric=(1,),
        )
    ]
    if known := findings(model):
        parts.append(paragraph("What to know about this model:"))
        parts.append(bullets(f"{finding.level}: {finding.message}" for finding in known))
    if found.families:
        parts.append(_families_table(model))
    if found.vif:
        parts.append(_vif_table(model))
    return join(parts)


def _diagnostic_rows(model: CostModel) -> Iterator[tuple[object, object, object]]:
    found = model.document.diagnostics
    condition = found.scaled_condition_number
    yield (
        "scaled condition number",
        "infinite" if condition is None else f"{condition:.1f}",
        f"up to {GOOD_CONDITION_NUMBER:.0f} is well determined; infinite: terms cannot be told apart",
    )
    if found.smallest_singular_direction:
        yield "least determined", "", found.smallest_singular_direction
    yield (
        "error in sample (MAPE)",
        _share(found.mape_in_sample),
        "of windows that the fit has seen; flatters every model",
    )
    yield (
        "error left out (MAPE)",
        _share(found.mape_leave_one_family_out),
        "of families that the fit never saw; the honest error",
    )
    yield (
        "coverage left out",
        _share(found.coverage95_leave_one_family_out, 0),
        "share of left-out windows inside their 95 % prediction interval; 90 % to 98 % is sound",
    )
    if found.mape_held_out is not None:
        yield (
            "error on work of networks (MAPE)",
            _share(found.mape_held_out),
            "softmax, convolution, attention, training steps and the like, which no fit uses: "
            + ", ".join(f"{name} {_share(judged.mape)}" for name, judged in found.held_out.items()),
        )
    for point, band in found.toggle.items():
        yield (
            f"{point} on zeros",
            _share(band.zeros_rel, 0),
            f"of its joules on random data, for which the costs hold; 95 % interval "
            f"{_share(band.ci95[0], 0)} to {_share(band.ci95[1], 0)}",
        )
    for side, deviation in found.repeatability.items():
        yield (
            f"repeatability, {side}",
            _share(deviation, 2),
            "relative standard deviation of replicates; no model can predict better",
        )
    yield "configurations", found.n_records, ""
    yield "windows", found.n_windows, "idle windows included"


def _families_table(model: CostModel) -> Html:
    head = ("family", "configurations", "error in sample", "error left out", "coverage left out", "remark")
    rows = (
        (
            name,
            family.records,
            _share(family.mape_in_sample),
            _share(family.mape_left_out),
            _share(family.coverage95_left_out, 0),
            family.reason,
        )
        for name, family in model.document.diagnostics.families.items()
    )
    return table(
        "Error by family of microbenchmarks, seen and left out (MAPE).",
        model.provenance,
        head,
        rows,
        numeric=(1, 2, 3, 4),
    )


def _vif_table(model: CostModel) -> Html:
    rows = (
        (element("code", name), "infinite" if vif is None else f"{vif:.2f}")
        for name, vif in model.document.diagnostics.vif.items()
    )
    caption = f"Variance inflation (VIF): 1 is perfect, above {MAX_VIF:.0f} a coefficient is refused."
    return properties(caption, model.provenance, rows)


def _share(fraction: float | None, decimals: int = 1) -> str:
    return "—" if fraction is None else percent(fraction, decimals)


def _size(number_of_bytes: float) -> str:
    for prefix in ("", "Ki", "Mi", "Gi"):
        if number_of_bytes < 1024:
            return f"{number_of_bytes:.4g} {prefix}B"
        number_of_bytes /= 1024
    return f"{number_of_bytes:.4g} TiB"
