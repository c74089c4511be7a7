"""Reads an HTML page back, independently of what wrote it."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from xml.etree import ElementTree

VOID = frozenset({"meta", "img", "br", "link", "input"})


@dataclass
class Element:
    tag: str
    attributes: dict[str, str | None] = field(default_factory=dict)
    children: list[Element | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def all(self, *tags: str) -> list[Element]:
        found = []
        for child in self.children:
            if isinstance(child, Element):
                found += [child] if child.tag in tags or not tags else []
                found += child.all(*tags)
        return found

    def only(self, tag: str) -> Element:
        (found,) = self.all(tag)
        return found

    def with_id(self, name: str) -> Element:
        (found,) = (element for element in self.all() if element.attributes.get("id") == name)
        return found


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = Element("root")
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs))
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def read_page(page: str) -> Element:
    """The tree of a page; every element must be closed in order."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert len(reader.open) == 1, f"<{reader.open[-1].tag}> is never closed"
    return reader.root


def svg_of(image: Element) -> ElementTree.Element:
    """The SVG document inside an image of the page."""
    return ElementTree.fromstring(_source(image))


def drawn_text(image: Element) -> str:
    """Every text in an image; matplotlib draws letters as paths and says what they are in a comment."""
    return "\n".join(re.findall("<!-- (.*?) -->", _source(image), flags=re.DOTALL))


def _source(image: Element) -> str:
    address = image.attributes["src"] or ""
    prefix = "data:image/svg+xml;base64,"
    assert address.startswith(prefix)
    return base64.b64decode(address.removeprefix(prefix)).decode()
