"""From scores and images of a run to tables, charts, grids and one page. Never imports torch."""

from __future__ import annotations

from sisbench.report.build import FORMATS, build_report, console_tables, write_scores_csv

__all__ = ["FORMATS", "build_report", "console_tables", "write_scores_csv"]
