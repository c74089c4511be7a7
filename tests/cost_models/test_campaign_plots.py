from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fakes.synthetic_records import TRUTH, campaign
from matplotlib.figure import Figure

from calibration_data import UsageError
from calibration_data.records import CalibrationRecord
from cost_models import fit_cost_model, load_cost_model
from cost_models.campaign_plots import plot_left_out, plot_timeline
from cost_models.design_matrix import build_design_matrix, sorted_records
from cost_models.figures import save_figures
from cost_models.held_out import leave_one_family_out
from cost_models.roofline_plot import plot_energy_roofline
from cost_models.store import published_names

RECORDS = campaign(kind="simulated", noise=0.001)
MODEL = fit_cost_model(RECORDS)


def words(figure: Figure) -> str:
    figure.draw_without_rendering()
    return "\n".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def in_time(records: list[CalibrationRecord], *, start_s: float = 0.0) -> list[CalibrationRecord]:
    """The records with their windows one after the other."""
    placed, now_s = [], start_s
    for record in records:
        moved = []
        for window in (record.idle_before, *record.replicates, record.idle_after):
            moved.append(window.model_copy(update={"started_s": now_s}))
            now_s += window.duration_s
        changes = {"idle_before": moved[0], "replicates": tuple(moved[1:-1]), "idle_after": moved[-1]}
        placed.append(record.model_copy(update=changes))
    return placed


def test_points_of_the_roofline_lie_where_the_physics_puts_them() -> None:
    """From DRAM: pJ/FLOP = flop + (l1 + l2 + llc + dram)/intensity, with the true costs."""
    figure = plot_energy_roofline(MODEL, RECORDS)
    axes = next(axes for axes in figure.axes if axes.get_title().startswith("fp32"))
    path = sum(TRUTH[name] for name in ("byte_l1", "byte_l2", "byte_llc", "byte_dram_read"))
    record = next(r for r in RECORDS if r.point == "intensity-dram-fp32")
    intensity = record.work_per_loop["flop_fp32"] / record.work_per_loop["byte_dram_read"]
    expected_pj = 1e12 * (TRUTH["flop_fp32"] + path / intensity)
    drawn = [(x, y) for line in axes.lines for x, y in line.get_xydata() if line.get_linestyle() == "None"]
    at_intensity = [y for x, y in drawn if x == pytest.approx(intensity) and y > expected_pj / 1.5]
    assert at_intensity == [pytest.approx(expected_pj, rel=0.05)] * 3


def test_the_roofline_names_levels_units_and_provenance() -> None:
    text = words(plot_energy_roofline(MODEL, RECORDS))
    for part in ("SIMULATED", "DRAM", "last level", "L1", "FLOP/B", "in pJ", "with idle and awake power"):
        assert part in text


@pytest.mark.parametrize("name", published_names())
def test_a_published_model_has_a_roofline_without_points(name: str) -> None:
    model = load_cost_model(Path(f"published:{name}"))
    text = words(plot_energy_roofline(model))
    assert "literature" in text
    assert "model only" in text


def test_a_model_without_arithmetic_says_so() -> None:
    model = fit_cost_model([r for r in RECORDS if r.family in ("idle", "awake", "load")])
    assert "no cost of any FLOP is known" in words(plot_energy_roofline(model, RECORDS))


def test_left_out_errors_are_drawn_as_they_are() -> None:
    records = sorted_records(RECORDS)
    left_out = leave_one_family_out(records, build_design_matrix(records))
    figure = plot_left_out(MODEL, records, left_out)
    drawn = np.sort(np.concatenate([line.get_xdata() for line in figure.axes[0].lines[:-1]]))
    errors = np.sort(100 * np.concatenate([result.relative_errors for result in left_out.values()]))
    assert drawn == pytest.approx(errors)
    text = words(figure)
    assert all(family in text for family in left_out)
    assert "SIMULATED" in text
    assert "MAPE" in text
    assert "not predicted: no other family tells launch" in text


def test_the_time_line_has_every_window_and_the_temperatures() -> None:
    records = in_time(RECORDS)
    warm = [
        r.model_copy(update={"conditions": {"temperature_c": f"{40 + i}"}}) for i, r in enumerate(records)
    ]
    figure = plot_timeline(warm)
    power, temperature = figure.axes
    segments = sum(len(part.get_segments()) for part in power.collections)
    assert segments == sum(2 + len(record.replicates) for record in records)
    assert list(temperature.lines[0].get_ydata()) == [40 + i for i in range(len(warm))]
    text = words(figure)
    for part in ("SIMULATED", "simulated power in W", "temperature in °C", "idle", "replicate"):
        assert part in text


def test_a_time_line_without_temperatures_says_so() -> None:
    figure = plot_timeline(in_time(RECORDS))
    assert len(figure.axes) == 1
    assert "no temperature was read" in words(figure)


def test_a_resumed_campaign_goes_on_where_it_stopped() -> None:
    half = len(RECORDS) // 2
    before = in_time(RECORDS[:half])
    figure = plot_timeline([*before, *in_time(RECORDS[half:], start_s=1.0)])
    starts = [s[0][0] for part in figure.axes[0].collections for s in part.get_segments()]
    assert (
        max(starts)
        > 1.9 * max(window.started_s for r in in_time(RECORDS[:half]) for window in r.replicates) / 60
    )
    assert "resumed" in words(figure)


def test_an_empty_campaign_has_no_time_line() -> None:
    with pytest.raises(ValueError, match="at least one record"):
        plot_timeline([])


def test_all_figures_of_a_fit_are_written(tmp_path: Path) -> None:
    files = save_figures(tmp_path / "figures", MODEL, in_time(RECORDS))
    assert {file.stem for file in files} == {
        "roofline", "coefficients", "predicted", "residuals", "left-out", "timeline",
    }  # fmt: skip
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)


def test_a_folder_that_cannot_be_made_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        save_figures(tmp_path / "taken", MODEL, RECORDS)
