"""One self-contained HTML page about a run, a comparison or a quickstart."""

from cwmp.report.write import REPORT, write_report

__all__ = ["REPORT", "write_report"]
