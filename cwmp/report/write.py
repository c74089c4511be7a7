"""Writes one self-contained HTML page about a run, a comparison or a quickstart."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterator
from pathlib import Path

from calibration_data.files import write_whole
from cwmp.report.contents import read_contents
from cwmp.report.page import page

REPORT = "report.html"

_IMAGE = re.compile(r'<img src="data:image/svg\+xml;base64,([^"]*)" alt="([^"]*)">')
"""As ``markup.figure`` writes it."""


def write_report(folder: Path, out: Path | None = None, *, figures: Path | None = None) -> Path:
    """Write the report of a folder; the same folder gives the same bytes.

    Args:
        folder: what ``calijoule train``, ``compare`` or ``quickstart`` has written.
        out: the page; ``report.html`` in the folder if not given.
        figures: folder for the figures of the page as SVG files, made if it is not there.

    Returns:
        Where the page is.

    Raises:
        UsageError: the folder does not exist or holds nothing to report on, or the page cannot be written.
        InvalidFileError: a file in the folder breaks its schema.
    """
    text = page(read_contents(folder))
    out = folder / REPORT if out is None else out
    write_whole(out, text)
    if figures is not None:
        for name, image in _figures(text):
            write_whole(figures / name, image)
    return out


def _figures(text: str) -> Iterator[tuple[str, bytes]]:
    """A numbered name, from what it shows, and the SVG of every figure of a page."""
    for number, (image, description) in enumerate(_IMAGE.findall(text), start=1):
        words = re.findall(r"[a-z0-9]+", html.unescape(description).partition(",")[0].lower())
        yield f"{number:02d}-{'-'.join(words)[:60]}.svg", base64.b64decode(image)
