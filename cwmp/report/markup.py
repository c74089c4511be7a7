"""HTML out of plain values, with escaping as the default.

Only ``Html`` is taken as markup. Every other value is escaped on its way in, so that a name from a file,
however hostile, stays text.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

MAX_PROPERTIES = 8
"""Rows of a table of properties before it is set in two columns."""

_COLOURS = {"measured": "green", "simulated": "orange", "literature": "blue"}


class Html(str):
    """Markup that is written as it is."""

    __slots__ = ()


def text(value: object) -> Html:
    """Markup as it is, anything else as escaped text."""
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def join(parts: Iterable[object], separator: str = "") -> Html:
    """One piece after the other."""
    return Html(text(separator).join(text(part) for part in parts))


def element(tag: str, *children: object, **attributes: str) -> Html:
    """An element with its children; a trailing underscore of an attribute is dropped (``class_``)."""
    pairs = "".join(f' {name.rstrip("_")}="{html.escape(value)}"' for name, value in attributes.items())
    return Html(f"<{tag}{pairs}>{join(children)}</{tag}>")


def paragraph(*children: object) -> Html:
    """A paragraph of text."""
    return element("p", *children)


def bullets(items: Iterable[object]) -> Html:
    """A list with one point per item."""
    return element("ul", *(element("li", item) for item in items))


def definitions(pairs: Iterable[tuple[object, object]]) -> Html:
    """A list of terms, each with what it means."""
    return element("dl", *(join((element("dt", term), element("dd", meaning))) for term, meaning in pairs))


def badge(provenance: str) -> Html:
    """The word that says where joules come from, in its colour."""
    return element("span", provenance, class_=f"badge {colour(provenance)}")


def colour(provenance: str) -> str:
    """Class of the style sheet for a provenance; several of them together have a colour of their own."""
    return _COLOURS.get(provenance, "purple")


def percent(fraction: float, decimals: int = 1) -> str:
    """A fraction in percent: ``percent(0.031)`` → ``"3.1 %"``."""
    return f"{100 * fraction:.{decimals}f} %"


def table(
    caption: object,
    provenance: str,
    head: Sequence[object],
    rows: Iterable[Sequence[object]],
    *,
    numeric: Sequence[int] = (),
) -> Html:
    """A table whose caption says where its numbers come from.

    Args:
        caption: what the table shows.
        provenance: where its numbers come from.
        head: names of the columns.
        rows: cells, as many in each row as there are columns.
        numeric: indices of the columns that hold numbers, which are set flush right.
    """
    right = frozenset(numeric)

    def line(tag: str, cells: Sequence[object]) -> Html:
        return element(
            "tr",
            *(
                element(tag, cell, class_="number") if column in right else element(tag, cell)
                for column, cell in enumerate(cells)
            ),
        )

    content = element(
        "table",
        element("caption", badge(provenance), " ", caption),
        element("thead", line("th", head)),
        element("tbody", *(line("td", row) for row in rows)),
    )
    return element("div", content, class_="table")


def properties(caption: object, provenance: str, rows: Iterable[tuple[object, object]]) -> Html:
    """A table of names with their values; a long one is set in two columns."""
    pairs = list(rows)
    if len(pairs) <= MAX_PROPERTIES:
        return table(caption, provenance, ("property", "value"), pairs)
    middle = (len(pairs) + 1) // 2
    right = [*pairs[middle:], ("", "")][:middle]
    beside = [(*first, *second) for first, second in zip(pairs[:middle], right, strict=True)]
    return table(caption, provenance, ("property", "value", "property", "value"), beside)


def figure(data_uri: str, description: str, caption: object, provenance: str) -> Html:
    """A picture that is part of the page, whose caption says where its numbers come from.

    Args:
        data_uri: the picture itself.
        description: what it shows, for those who cannot see it.
        caption: what to read from it.
        provenance: where its numbers come from.
    """
    image = Html(f'<img src="{html.escape(data_uri)}" alt="{html.escape(description)}">')
    return element("figure", image, element("figcaption", badge(provenance), " ", caption))
