"""From the scores and images of a run to tables, charts, grids and one page. Never imports torch."""

from __future__ import annotations
