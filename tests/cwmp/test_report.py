"""The report says where every joule comes from, shows what is there, and names what is not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import pytest
from fakes.known_costs import known_cost_model
from fakes.page import Element, drawn_text, read_page, svg_of

from calibration_data import InvalidFileError, UsageError
from calibration_data.records import CalibrationRecord
from calibration_data.store import append_record, read_records, records_sha256
from cost_models import CostModel, fit_cost_model, load_cost_model, save_cost_model
from cwmp.comparison.compare import compare
from cwmp.comparison.plan import Variant
from cwmp.config import training_config
from cwmp.cost_document import costs_document, load_costs, save_costs
from cwmp.cost_vector import cost_vector
from cwmp.networks import build_network
from cwmp.report import write_report
from cwmp.training.round_record import accuracies_of
from cwmp.training.run_files import append_round, read_rounds
from profiler.campaign import run_campaign
from profiler.devices import open_device
from profiler.plan import make_plan

CREATED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)> & $\\frac 漢字'


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records, and the cost model that was fitted to them."""
    folder = tmp_path_factory.mktemp("campaign")
    device = open_device("sim:server-cpu")
    records = run_campaign(device, make_plan(device, "quick"), folder / "records.jsonl")
    model = fit_cost_model(records, records_sha256=records_sha256([folder / "records.jsonl"]))
    save_cost_model(folder / "model.json", model)
    return folder


@pytest.fixture(scope="module")
def quickstart(campaign: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that a quickstart leaves, on a small data set."""
    folder = tmp_path_factory.mktemp("whole") / "quickstart"
    shutil.copytree(campaign, folder)
    model = load_cost_model(folder / "model.json")
    save_prices(folder / "costs.json", model)
    compare(
        training_config(selector="dense", dataset="synthetic", clients=2, rounds=2, local_epochs=1),
        model,
        folder / "comparison",
        rules=("cwmp", "topk", "dense"),
        budgets=(0.1, 0.3),
        seeds=(0, 1),
        open_device=lambda model: open_device("sim:server-cpu"),
    )
    return folder


@pytest.fixture(scope="module")
def page(quickstart: Path, tmp_path_factory: pytest.TempPathFactory) -> Element:
    return read(quickstart, tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture
def run(quickstart: Path, tmp_path: Path) -> Path:
    """One run under a budget, to be changed."""
    folder = tmp_path / "run"
    shutil.copytree(quickstart / "comparison" / "runs" / "cwmp-b0.1-s0", folder)
    return folder


@pytest.fixture
def training(run: Path) -> Path:
    """The same run without its cost model, to be drawn faster."""
    (run / "cost_model.json").unlink()
    return run


def save_prices(path: Path, model: CostModel) -> None:
    network = build_network("mlp", sample_shape=(16,), classes=4)
    save_costs(
        path, costs_document(cost_vector(network, model, boundary="update", density=0.05), created=CREATED)
    )


def read(folder: Path, out: Path | None = None) -> Element:
    return read_page(write_report(folder, out).read_text(encoding="utf-8"))


def provenance_of(page: Element) -> str:
    """The loud word at the head of the page."""
    return page.only("header").only("strong").text


def captions(page: Element) -> list[Element]:
    return page.all("caption", "figcaption")


def rows(page: Element, section: str, beginning: str) -> list[Element]:
    """Rows of a section whose first cell begins with some text."""
    lines = page.with_id(section).all("tr")
    return [row for row in lines if row.all("td") and row.all("td")[0].text.startswith(beginning)]


def without_glossary(page: Element) -> str:
    body = page.only("body")
    return body.text.replace(page.with_id("words").text, "")


def test_nothing_is_loaded_from_anywhere(page: Element) -> None:
    assert not page.all("script", "link", "iframe", "object", "embed", "base", "form")
    for element in page.all():
        assert not [name for name in element.attributes if name.startswith("on")]
        for name in ("src", "href", "srcset", "data", "action", "background"):
            address = element.attributes.get(name) or ""
            assert not address or address.startswith(("data:image/", "#"))
    style = page.only("style").text
    assert "url(" not in style
    assert "@import" not in style


def test_every_link_inside_the_page_arrives(page: Element) -> None:
    for link in page.all("a"):
        page.with_id((link.attributes["href"] or "").removeprefix("#"))


def test_figures_are_small_vector_images_with_a_description(page: Element) -> None:
    images = page.all("img")
    assert len(images) == 11
    for image in images:
        assert image.attributes["alt"]
        assert svg_of(image).tag.endswith("svg")
        assert not [tag for tag in svg_of(image).iter() if str(tag.tag).endswith(("script", "image"))]
    assert sum(len(image.attributes["src"] or "") for image in images) < 3_000_000


def test_the_figures_of_a_page_can_be_had_as_files(training: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    write_report(training, out, figures=tmp_path / "figures")
    images = read_page(out.read_text(encoding="utf-8")).all("img")
    files = sorted((tmp_path / "figures").iterdir())
    assert len(files) == len(images) > 0
    for image, file in zip(images, files, strict=True):
        drawn = ElementTree.fromstring(file.read_bytes())
        assert ElementTree.tostring(drawn) == ElementTree.tostring(svg_of(image))


def test_head_title_and_every_caption_say_simulated(page: Element) -> None:
    assert provenance_of(page) == "simulated"
    assert "simulated" in page.only("title").text
    assert "No energy counter was read" in page.only("header").text
    assert len(captions(page)) > 15
    for caption in captions(page):
        assert "simulated" in caption.text


def test_simulated_joules_are_never_called_measured(page: Element) -> None:
    assert "measured" not in without_glossary(page).lower()
    for image in page.all("img"):
        assert "measured" not in (image.attributes["alt"] or "")
        assert "measured" not in drawn_text(image).lower()


def test_every_figure_of_joules_says_simulated_in_itself(page: Element) -> None:
    class_mix = "Samples of each client"  # the one figure without joules
    of_joules = [i for i in page.all("img") if not (i.attributes["alt"] or "").startswith(class_mix)]
    assert len(of_joules) == 10
    for image in of_joules:
        assert "simulated" in drawn_text(image).lower()


def test_the_head_names_device_dates_and_versions(page: Element, campaign: Path) -> None:
    head = page.only("header").text
    record = read_records(campaign / "records.jsonl")[0]
    for part in ("sim:server-cpu", record.created, f"numpy {record.software['numpy']}", "torch"):
        assert part in head


def test_the_sections_come_in_the_order_of_the_journey(page: Element) -> None:
    assert [heading.text for heading in page.all("h2")] == [
        "Summary",
        "Device and sensors",
        "Coefficients",
        "How well the model fits",
        "Joules per gradient coordinate",
        "Comparison of the rules",
        "Training",
        "Limits",
        "Words",
    ]


def test_a_complete_folder_misses_nothing(page: Element) -> None:
    assert "Not in this folder" not in page.text


def test_coefficients_stand_with_unit_interval_and_published_range(page: Element, campaign: Path) -> None:
    model = load_cost_model(campaign / "model.json")
    read_cost = model.coefficients["byte_dram_read"]
    (row,) = rows(page, "coefficients", "byte_dram_read")
    value, interval, status, origin, published = (cell.text for cell in row.all("td")[1:])
    shown, expanded = (float(part) for part in value.removesuffix(" pJ/B").split(" ± "))
    assert read_cost.value is not None
    assert read_cost.standard_uncertainty is not None
    assert read_cost.ci95 is not None
    assert shown == pytest.approx(1e12 * read_cost.value, rel=0.01)
    assert expanded == pytest.approx(2e12 * read_cost.standard_uncertainty, rel=0.06)
    low, high = (float(part) for part in interval.removesuffix(" pJ/B").split(" … "))
    assert (low, high) == pytest.approx([1e12 * limit for limit in read_cost.ci95], rel=0.01)
    assert (status, origin) == ("identified", "simulated")
    assert "100 … 500 pJ/B" in published
    assert "Choi" in published


def test_refused_coefficients_have_a_reason_and_no_number(tmp_path: Path) -> None:
    save_cost_model(tmp_path / "model.json", known_cost_model(relative_u=0.02, refused=frozenset({"launch"})))
    page = read(tmp_path)
    (row,) = rows(page, "coefficients", "launch")
    assert not re.search(r"\d", row.text)
    assert "not identified" in row.text
    assert "12 coefficients identified, 0 bounded and 1 refused" in page.with_id("summary").text


def test_a_bounded_coefficient_shows_its_limits_alone(tmp_path: Path) -> None:
    document = known_cost_model(relative_u=0.02, refused=frozenset({"launch"})).document
    bounded = {
        "status": "bounded",
        "ci95": (0.0, 3e-6),
        "reason": "lost in the noise",
    }
    coefficients = tuple(
        item.model_copy(update=bounded) if item.name == "launch" else item for item in document.coefficients
    )
    model = CostModel(document.model_copy(update={"coefficients": coefficients}))
    save_cost_model(tmp_path / "model.json", model)
    (row,) = rows(read(tmp_path), "coefficients", "launch")
    _, value, interval, status, _, _ = (cell.text for cell in row.all("td"))
    assert value == "—"
    assert interval == "0.00 … 3.00 µJ/launch"
    assert status == "boundedlost in the noise"


def test_prices_and_verdicts_are_those_of_the_files(page: Element, quickstart: Path) -> None:
    assert "Var(ln c) = " in page.with_id("prices").text
    summary = page.with_id("summary").text
    assert "cwmp" in summary
    assert summary.count("cwmp against topk at the same joules") == 1
    assert summary.count("came") == 2
    assert len(rows(page, "prices", "0.weight")) == 1
    assert "L1" in rows(page, "prices", "0.bias")[0].text


def test_equal_prices_are_said_to_gain_nothing(tmp_path: Path) -> None:
    model = known_cost_model(relative_u=0.01)
    vector = cost_vector(
        build_network("mlp", sample_shape=(16,), classes=4),
        model,
        boundary="update+uplink",
        link="wifi-2012",
        density=0.05,
    )
    save_costs(tmp_path / "costs.json", costs_document(vector, created=CREATED))
    page = read(tmp_path)
    assert "Top-K is as good here" in page.with_id("summary").text
    assert "wifi-2012" in page.with_id("prices").text


def test_rules_stand_with_their_accuracy_and_joules(page: Element, quickstart: Path) -> None:
    folders = [quickstart / "comparison" / "runs" / f"topk-b0.3-s{seed}" for seed in (0, 1)]
    last = [read_rounds(folder / "rounds.jsonl")[-1] for folder in folders]
    accuracy = 100 * sum(accuracies_of(last)) / 2
    joules = sum(report.cumulative_boundary_j for report in last) / 2
    (row,) = (
        row
        for row in rows(page, "training", "topkfixed + 30 %")
        if len(row.all("td")) == 9 and row.all("td")[1].text == "2"
    )
    cells = [cell.text for cell in row.all("td")]
    assert float(cells[3].split(" ± ")[0]) == pytest.approx(accuracy, abs=0.06)
    assert float(cells[5].removesuffix(" µJ")) == pytest.approx(1e6 * joules, rel=0.006)


def test_the_phases_stand_beside_what_was_simulated(page: Element) -> None:
    for phase in ("train", "select", "pack", "aggregate", "apply"):
        lines = [row.all("td") for row in page.with_id("training").all("tr") if len(row.all("td")) == 6]
        of_phase = [cells for cells in lines if cells[1].text == phase]
        assert [cells[0].text for cells in of_phase] == ["cwmp", "topk", "dense"]
        for cells in of_phase:
            assert float(cells[4].text) == pytest.approx(1, abs=0.1)
    assert "simulated ± U (k = 2)" in page.with_id("training").text


def test_a_kept_budget_is_said_to_be_kept(page: Element) -> None:
    kept = [row for row in page.with_id("training").all("tr") if "in every one" in row.text]
    assert len(kept) == 4


def test_a_broken_budget_is_said_to_be_broken(training: Path) -> None:
    rounds = read_rounds(training / "rounds.jsonl")
    first = rounds[0].clients[0]
    assert first.budget_j is not None
    broken = first.model_copy(update={"upper_j": 1.5 * first.budget_j})
    (training / "rounds.jsonl").unlink()
    for report in (
        rounds[0].model_copy(update={"clients": (broken, *rounds[0].clients[1:])}),
        *rounds[1:],
    ):
        append_round(training / "rounds.jsonl", report)
    page = read(training)
    (row,) = (row for row in page.with_id("training").all("tr") if "NOT in 1" in row.text)
    assert "150.0 %" in row.text


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of two variants with a hostile name, one run of which diverges."""
    folder = tmp_path_factory.mktemp("variants") / "study"
    model = known_cost_model(relative_u=0.02)
    wild = {"learning_rate": 1e30}
    compare(
        training_config(selector="dense", dataset="synthetic", clients=2, rounds=2, local_epochs=1),
        [
            Variant(name=EVIL, cost_model=model),
            Variant(
                name="radio",
                cost_model=known_cost_model(relative_u=0.1),
                settings={"boundary": "update+uplink", "link": "wifi-2012"},
            ),
            Variant(name="wild", cost_model=model, settings=wild),
        ],
        folder,
        rules=("cwmp", "cwmp:equal-prices", "topk"),
        budgets=(0.1,),
        seeds=(0, 1, 2),
    )
    return folder


def test_variants_stand_beside_each_other_and_each_has_its_tables(variants: Path, tmp_path: Path) -> None:
    page = read(variants, tmp_path / "report.html")
    section = page.with_id("comparison")
    assert [heading.text for heading in section.all("h3")] == [EVIL, "radio"]
    assert not page.all("script")
    frontier, *others = section.all("img")
    assert "radio" in drawn_text(frontier)
    assert len(others) == 2 * 3
    # The ablation is Top-K to the bit, so there is one test for each variant.
    assert [row.all("td")[1].text for row in rows(page, "comparison", "cwmp against topk")] == ["3", "3"]
    assert rows(page, "comparison", "cwmp (equal prices)")
    provenances = [caption.only("span").text for caption in section.all("caption")]
    assert set(provenances) == {"simulated"}
    assert "wild--topk-b0.1-s0" in section.text
    assert "finite" in section.text


def test_every_cost_model_and_every_list_of_prices_is_shown(variants: Path, tmp_path: Path) -> None:
    page = read(variants, tmp_path / "report.html")
    for section in ("device", "coefficients", "fit", "prices"):
        assert [heading.text for heading in page.with_id(section).all("h3")] == [EVIL, "radio"]
    for section, name in (("coefficients", "byte_dram_read"), ("prices", "0.weight")):
        first, second = rows(page, section, name)
        assert first.text != second.text
    summary = page.with_id("summary").text
    assert "radio: The cost model of" in summary
    (of_first,) = {load_costs(path).verdict for path in variants.glob("runs/*script*/costs.json")}
    (of_radio,) = {load_costs(path).verdict for path in variants.glob("runs/radio--*/costs.json")}
    assert f"{EVIL}: {of_first}" in summary
    assert f"radio: {of_radio}" in summary


def test_the_runs_of_several_variants_are_not_thrown_together(variants: Path, tmp_path: Path) -> None:
    page = read(variants, tmp_path / "report.html")
    assert "The training of every single run" in page.with_id("summary").text
    training = page.with_id("training")
    assert "wifi-2012" in training.text
    assert len(training.all("img")) == 1


def test_what_a_run_alone_lacks_is_named(run: Path) -> None:
    page = read(run)
    (missing,) = (e for e in page.all("div") if e.attributes.get("class") == "missing")
    assert "calijoule profile" in missing.text
    assert "comparison" not in missing.text
    assert page.with_id("training").all("img")
    assert page.with_id("coefficients").all("img")


def test_an_unfinished_run_is_shown_as_far_as_it_came(training: Path) -> None:
    (training / "summary.json").unlink()
    first = read_rounds(training / "rounds.jsonl")[0]
    (training / "rounds.jsonl").unlink()
    append_round(training / "rounds.jsonl", first)
    page = read(training)
    assert "1 of 2 rounds" in page.with_id("summary").text
    assert page.with_id("training").all("img")


def test_rounds_without_a_test_are_left_out_of_the_accuracy(training: Path) -> None:
    """The last round that was tested counts; where none was, the page says so."""
    (training / "summary.json").unlink()
    first, last = read_rounds(training / "rounds.jsonl")
    untested = {"test_accuracy": None, "test_loss": None}
    for rounds, accuracy in (
        ((first, last.model_copy(update=untested)), first.test_accuracy),
        ((first.model_copy(update=untested), last.model_copy(update=untested)), None),
    ):
        (training / "rounds.jsonl").unlink()
        for report in rounds:
            append_round(training / "rounds.jsonl", report)
        page = read(training)
        expected = "not tested yet" if accuracy is None else f"{100 * accuracy:.1f} % accuracy"
        assert expected in page.with_id("summary").text
        assert page.with_id("training").all("img")


def test_a_run_without_any_round_is_shown_without_training(training: Path) -> None:
    (training / "summary.json").unlink()
    (training / "rounds.jsonl").unlink()
    page = read(training)
    assert "0 of 2 rounds" in page.with_id("summary").text
    assert "Training" not in [heading.text for heading in page.all("h2")]


def test_records_of_another_campaign_are_not_taken_for_those_of_the_model(
    campaign: Path, tmp_path: Path
) -> None:
    shutil.copytree(campaign, tmp_path / "copy")
    with open(tmp_path / "copy" / "records.jsonl", "a", encoding="utf-8") as file:
        file.write((campaign / "records.jsonl").read_text().splitlines(keepends=True)[0])
    page = read(tmp_path / "copy")
    assert "fitted to other records" in page.with_id("fit").text
    assert "those in this folder are others" in page.with_id("summary").text


def measured(record: CalibrationRecord) -> CalibrationRecord:
    device = record.device.model_copy(update={"device": "cpu", "kind": "cpu"})
    return record.model_copy(update={"device": device, "provenance": "measured"})


def test_measured_joules_are_called_measured_in_every_caption(campaign: Path, tmp_path: Path) -> None:
    for record in read_records(campaign / "records.jsonl"):
        append_record(tmp_path / "records.jsonl", measured(record))
    model = fit_cost_model(
        read_records(tmp_path / "records.jsonl"),
        records_sha256=records_sha256([tmp_path / "records.jsonl"]),
    )
    save_cost_model(tmp_path / "model.json", model)
    page = read(tmp_path)
    assert provenance_of(page) == "measured"
    for caption in captions(page):
        assert caption.only("span").text == "measured"


def test_where_parts_differ_each_says_its_own(campaign: Path, tmp_path: Path) -> None:
    for record in read_records(campaign / "records.jsonl"):
        append_record(tmp_path / "records.jsonl", measured(record))
    shutil.copy(campaign / "model.json", tmp_path)
    page = read(tmp_path)
    assert provenance_of(page) == "simulated and measured"
    parts = [item.text for item in page.only("header").all("li")]
    assert parts == ["windows of the campaign: measured", "cost model: simulated"]
    said = {caption.only("span").text for caption in page.with_id("coefficients").all("caption")}
    assert said == {"simulated"}
    said = {caption.only("span").text for caption in page.with_id("device").all("caption")}
    assert said == {"measured"}


def test_a_model_from_the_literature_says_so(tmp_path: Path) -> None:
    document = known_cost_model(relative_u=0.1).document
    literature = tuple(item.model_copy(update={"provenance": "literature"}) for item in document.coefficients)
    changes = {"provenance": "literature", "device": None, "coefficients": literature}
    save_cost_model(tmp_path / "model.json", CostModel(document.model_copy(update=changes)))
    page = read(tmp_path)
    assert provenance_of(page) == "literature"
    assert all(caption.only("span").text == "literature" for caption in captions(page))
    assert "no single device" in page.with_id("device").text


def test_hostile_names_stay_text(campaign: Path, tmp_path: Path) -> None:
    folder = tmp_path / '"><script>alert(1)'
    for record in read_records(campaign / "records.jsonl"):
        evil = {
            "family": EVIL,
            "software": {EVIL: EVIL},
            "conditions": {EVIL: EVIL},
            "device": record.device.model_copy(update={"model_name": EVIL}),
        }
        folder.mkdir(exist_ok=True)
        append_record(folder / "records.jsonl", record.model_copy(update=evil))
    document = known_cost_model(relative_u=0.02, refused=frozenset({"launch"})).document
    coefficients = tuple(
        item.model_copy(update={"reason": EVIL}) if item.status == "refused" else item
        for item in document.coefficients
    )
    assert document.device is not None
    device = document.device.model_copy(update={"model_name": EVIL})
    changes = {"device": device, "coefficients": coefficients, "software": {EVIL: EVIL}}
    save_cost_model(folder / "model.json", CostModel(document.model_copy(update=changes)))
    page = read(folder)
    assert not page.all("script")
    assert all((image.attributes["src"] or "").startswith("data:") for image in page.all("img"))
    for section in ("device", "coefficients", "summary"):
        assert EVIL in page.with_id(section).text
    for image in page.all("img"):
        assert svg_of(image).tag.endswith("svg")


def test_the_same_folder_gives_the_same_bytes_wherever_the_page_goes(training: Path, tmp_path: Path) -> None:
    there = tmp_path / "new" / "page.html"
    assert write_report(training) == training / "report.html"
    command = "import sys, pathlib, cwmp.report as r; print(r.write_report(*map(pathlib.Path, sys.argv[1:])))"
    another_process = subprocess.run(
        [sys.executable, "-c", command, str(training), str(there)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "12345"},
    )
    assert another_process.stdout.strip() == str(there)
    assert there.read_bytes() == (training / "report.html").read_bytes()


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no folder"):
        write_report(tmp_path / "absent")


@pytest.mark.parametrize("files", [(), ("photo.jpg", "config.toml"), ("runs/README",)])
def test_an_empty_or_foreign_folder_is_refused_with_the_next_step(
    tmp_path: Path, files: tuple[str, ...]
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    with pytest.raises(UsageError, match="holds nothing that a report can show") as caught:
        write_report(tmp_path)
    assert "calijoule" in caught.value.next_step
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    "name", ["config.json", "cost_model.json", "costs.json", "rounds.jsonl", "summary.json"]
)
def test_a_broken_file_is_named(run: Path, name: str) -> None:
    (run / name).write_text('{"schema": "another"}\n')
    with pytest.raises(InvalidFileError, match=re.escape(name)):
        write_report(run)


def test_a_place_that_cannot_be_written_is_the_callers_to_change(training: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        write_report(training, training / "config.json" / "report.html")
