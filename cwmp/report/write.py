"""Writes one self-contained HTML page about a run, a comparison or a quickstart."""

from __future__ import annotations

from pathlib import Path

from calibration_data.files import write_whole
from cwmp.report.contents import read_contents
from cwmp.report.page import page

REPORT = "report.html"


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Write the report of a folder; the same folder gives the same bytes.

    Args:
        folder: what ``calijoule train``, ``compare`` or ``quickstart`` has written.
        out: the page; ``report.html`` in the folder if not given.

    Returns:
        Where the page is.

    Raises:
        UsageError: the folder does not exist or holds nothing to report on, or the page cannot be written.
        InvalidFileError: a file in the folder breaks its schema.
    """
    text = page(read_contents(folder))
    out = folder / REPORT if out is None else out
    write_whole(out, text)
    return out
