"""From a run folder to RUN/report: tables, charts, grids, timing.csv and report.html."""

from __future__ import annotations

import csv
import io
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.errors import UserError, did_you_mean
from bench.report.published import paper_tables
from bench.report.quality import Material, quality_tables
from bench.report.render import RENDERERS, to_rich
from bench.report.tables import Table
from bench.store import CellView, write_atomic

FORMATS = tuple(RENDERERS)


def report_tables(
    material: Material,
    *,
    versus: str | None = None,
    protocols: Sequence[str] = (),
    uncertainty: bool = False,
) -> list[Table]:
    """Quality tables, then the paper tables that ``versus`` names."""
    tables = quality_tables(material, protocols, uncertainty=uncertainty)
    if versus:
        tables += paper_tables(versus, material, protocols or material.protocols)
    return tables


def write_tables(folder: Path, tables: Sequence[Table], formats: Sequence[str]) -> list[Path]:
    """``folder/NAME.SUFFIX`` for every table and format.

    Raises:
        UserError: an unknown format.
    """
    for suffix in formats:
        if suffix not in RENDERERS:
            raise UserError(f"no table format '{suffix}'", did_you_mean(suffix, RENDERERS))
    paths = []
    for name, table in zip(unique([t.name for t in tables]), tables, strict=True):
        for suffix in formats:
            paths.append(folder / f"{name}.{suffix}")
            write_atomic(paths[-1], RENDERERS[suffix](table).encode())
    return paths


def unique(names: Sequence[str]) -> list[str]:
    """The names, with -2, -3, ... where one (whatever its case) comes again."""
    seen: dict[str, int] = {}
    out = []
    for name in names:
        at = seen[name.lower()] = seen.get(name.lower(), 0) + 1
        out.append(name if at == 1 else f"{name}-{at}")
    return out


def seconds(cell: CellView) -> list[float]:
    """Seconds an image, of the images that were made."""
    return [r["seconds"] for r in cell.items() if r.get("seconds") and not r.get("error")]


def timing_csv(cells: Sequence[CellView]) -> str:
    """One row a cell: images, median and mean seconds an image. Kept apart from the tables, which
    are the same bytes for the same scores."""
    stream = io.StringIO()
    out = csv.writer(stream, lineterminator="\n")
    out.writerow(["method", "dataset", "task", "images", "median_seconds", "mean_seconds"])
    for cell in cells:
        taken = seconds(cell)
        if taken:
            about = cell.about
            where = (about["method"]["label"], about["dataset"]["label"], about["task"]["slug"])
            middle, mean = statistics.median(taken), statistics.fmean(taken)
            out.writerow([*where, len(taken), f"{middle:.6g}", f"{mean:.6g}"])
    return stream.getvalue()


def fresh(folder: Path) -> Path:
    """``folder``, emptied: nothing of an earlier report stays behind."""
    if folder.is_symlink():
        raise UserError(f"{folder} is a link", "remove it: a report writes inside its run folder")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def console_tables(
    run: Path,
    *,
    versus: str | None = None,
    protocols: Sequence[str] = (),
    uncertainty: bool = False,
) -> list[Any]:
    """The report's tables as rich tables, for ``rich.print``."""
    material = Material.of(run)
    tables = report_tables(material, versus=versus, protocols=protocols, uncertainty=uncertainty)
    return [to_rich(t) for t in tables]
