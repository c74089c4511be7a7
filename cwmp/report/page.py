"""The whole page of a report: where its joules come from, a summary, the sections, limits and words.

Rules of this module:
- The first thing on the page says where the joules come from, and so does every caption after it.
- Simulated joules are called simulated, and nothing else.
- What is not in the folder is named, with the command that makes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources

from calibration_data import __version__
from cost_models import CostModel
from cwmp.report.calibration import coefficients_section, device_section, diagnostics_section, fit_section
from cwmp.report.comparison import comparison_section
from cwmp.report.contents import Part, ReportContents
from cwmp.report.costs import costs_section
from cwmp.report.markup import Html, bullets, colour, definitions, element, join, paragraph
from cwmp.report.summary import summary_section
from cwmp.report.training import (
    provenance_of_prices,
    provenance_of_sensors,
    settings_of_runs,
    training_section,
)
from cwmp.report.words import LIMITS, MEANING, WORDS, in_words


@dataclass(frozen=True, kw_only=True)
class _Section:
    """One section of the page."""

    anchor: str
    title: str
    content: Html


def page(contents: ReportContents) -> str:
    """The page as text: HTML that needs nothing else to be read."""
    sections = list(_sections(contents))
    head = element(
        "head",
        Html('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        element("title", f"{contents.name}: joules, {provenance_of(contents)}"),
        element("style", Html((resources.files("cwmp.report") / "report.css").read_text(encoding="utf-8"))),
    )
    body = element(
        "body",
        _header(contents, sections),
        element("main", *(_rendered(section) for section in sections)),
        element("footer", f"Written by calijoule {__version__} from the files in {contents.name}."),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def provenance_of(contents: ReportContents) -> str:
    """Where the joules of the whole page come from; several words if its parts differ."""
    return in_words({word for _, words in _provenances(contents) for word in words.split(" and ")})


def _provenances(contents: ReportContents) -> Iterator[tuple[str, str]]:
    """Each part with where its joules come from."""
    if contents.records:
        yield "windows of the campaign", in_words({record.provenance for record in contents.records})
    if contents.models:
        yield "cost model", in_words({model.provenance for model in contents.models.values()})
    if contents.prices:
        yield "prices", in_words({costs.provenance for costs in contents.prices.values()})
    if contents.comparison is not None:
        yield "comparison", in_words({item.price_provenance for item in contents.comparison.variants})
    if contents.runs:
        yield "predicted joules of training", provenance_of_prices(contents.runs)
        if seen_as := provenance_of_sensors(contents.runs):
            yield "joules of training that sensors saw", seen_as


def _sections(contents: ReportContents) -> Iterator[_Section]:
    yield _Section(anchor="summary", title="Summary", content=summary_section(contents))
    if contents.records or contents.models:
        models: Mapping[str, CostModel | None] = contents.models or {"": None}
        content = _each(models, lambda model: device_section(contents.records, model))
        yield _Section(anchor="device", title="Device and sensors", content=content)
    if contents.models:
        content = _each(contents.models, coefficients_section)
        yield _Section(anchor="coefficients", title="Coefficients", content=content)
        content = join((fit_section(contents), _each(contents.models, diagnostics_section)))
        yield _Section(anchor="fit", title="How well the model fits", content=content)
    if contents.prices:
        content = _each(contents.prices, costs_section)
        yield _Section(anchor="prices", title="Joules per gradient coordinate", content=content)
    if contents.comparison is not None:
        yield _Section(
            anchor="comparison",
            title="Comparison of the rules",
            content=comparison_section(contents.comparison),
        )
    if any(run.rounds for run in contents.runs):
        yield _Section(anchor="training", title="Training", content=training_section(contents.runs))
    elif contents.runs and contents.comparison is not None:
        yield _Section(anchor="training", title="Training", content=settings_of_runs(contents.runs))
    yield _Section(anchor="limits", title="Limits", content=bullets(LIMITS))
    words = element("div", definitions(WORDS), class_="glossary")
    yield _Section(anchor="words", title="Words", content=words)


def _each(parts: Mapping[str, Part], content: Callable[[Part], Html]) -> Html:
    """The same of every part, under its name if it has one."""
    return join(join((element("h3", name) if name else "", content(part))) for name, part in parts.items())


def _rendered(section: _Section) -> Html:
    return element("section", element("h2", section.title), section.content, id=section.anchor)


def _header(contents: ReportContents, sections: list[_Section]) -> Html:
    links = (element("a", section.title, href=f"#{section.anchor}") for section in sections)
    return element(
        "header",
        element("h1", f"Energy report: {contents.name}"),
        _banner(contents),
        element("nav", join(links, " ")),
    )


def _banner(contents: ReportContents) -> Html:
    whole = provenance_of(contents)
    parts = list(_provenances(contents))
    sentences = [MEANING.get(word, "") for word in whole.split(" and ")]
    differing = [f"{part}: {words}" for part, words in parts] if " and " in whole else []
    return element(
        "div",
        element("strong", whole),
        *(paragraph(sentence) for sentence in sentences if sentence),
        bullets(differing) if differing else "",
        definitions(_facts(contents)),
        class_=f"banner {colour(whole)}",
    )


def _facts(contents: ReportContents) -> Iterator[tuple[str, str]]:
    """Device, dates and versions, for the head of the page."""
    records = contents.records
    devices = [record.device for record in records[:1]] or [
        model.device for model in contents.models.values() if model.device
    ]
    if devices:
        yield "device", _listed(f"{device.model_name} ({device.device})" for device in devices)
    if records:
        yield "records", f"{records[0].created} to {records[-1].created}"
    if contents.models:
        yield "cost model", _listed(model.document.created for model in contents.models.values())
    if contents.prices:
        yield "prices", _listed(costs.created for costs in contents.prices.values())
    software: dict[str, str] = {}
    for model in contents.models.values():
        software |= model.document.software
    for record in records[:1]:
        software |= record.software
    for run in contents.runs:
        software |= run.report.software if run.report else {}
    yield "software", ", ".join(f"{name} {version}" for name, version in sorted(software.items()))


def _listed(facts: Iterable[str]) -> str:
    """Each of several facts once."""
    return "; ".join(dict.fromkeys(facts))
