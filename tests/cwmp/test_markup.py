"""Whatever comes from outside stays text."""

from __future__ import annotations

import html

import pytest
from fakes.page import read_page
from hypothesis import given
from hypothesis import strategies as st

from cwmp.report.markup import (
    Html,
    bullets,
    definitions,
    element,
    figure,
    join,
    percent,
    properties,
    table,
    text,
)


@given(st.text())
def test_escaped_text_reads_back_as_it_was(value: str) -> None:
    assert html.unescape(text(value)) == html.unescape(html.escape(value))
    assert not set("<>\"'") & set(text(value))


@given(st.text(alphabet=st.characters(exclude_categories=("Cs", "Cc")), max_size=40))
def test_no_value_becomes_an_element(value: str) -> None:
    page = read_page(
        join(
            (
                element("p", value, title=value),
                bullets([value]),
                definitions([(value, value)]),
                table(value, value, (value,), [(value,)]),
                figure(f"data:{value}", value, value, value),
            )
        )
    )
    tables, lists = (
        {"div", "table", "caption", "thead", "tbody", "tr", "th", "td"},
        {"ul", "li", "dl", "dt", "dd"},
    )
    others = {"p", "span", "figure", "img", "figcaption"}
    assert {found.tag for found in page.all()} == tables | lists | others
    assert page.only("p").attributes == {"title": value}
    assert page.only("td").text == value


def test_markup_is_kept() -> None:
    assert text(Html("<b>a</b>")) == "<b>a</b>"
    assert join(("a&b", Html("<br>")), " < ") == "a&amp;b &lt; <br>"


def test_a_table_says_where_its_numbers_come_from() -> None:
    page = read_page(table("Costs.", "simulated", ("name", "J"), [("read", 1)], numeric=(1,)))
    assert page.only("caption").text == "simulated Costs."
    assert [cell.attributes.get("class") for cell in page.all("th", "td")] == [None, "number"] * 2


@pytest.mark.parametrize(("count", "columns"), [(1, 2), (8, 2), (9, 4), (12, 4)])
def test_long_properties_stand_in_two_columns_and_none_is_lost(count: int, columns: int) -> None:
    names = [f"name {number}" for number in range(count)]
    page = read_page(properties("All.", "measured", [(name, name.upper()) for name in names]))
    assert len(page.all("th")) == columns
    cells = [cell.text for cell in page.all("td")]
    found = dict(zip(cells[::2], cells[1::2], strict=True))
    found.pop("", None)
    assert found == {name: name.upper() for name in names}


def test_fractions_are_printed_in_percent() -> None:
    assert [percent(0.031), percent(1), percent(0.5, 0)] == ["3.1 %", "100.0 %", "50 %"]
