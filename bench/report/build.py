"""From a run folder to RUN/report: tables, charts, grids, timing.csv and report.html."""

from __future__ import annotations

import csv
import io
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sisbench.core.errors import UserError, did_you_mean
from sisbench.core.store import write_atomic
from sisbench.report.charts import Chart, charts
from sisbench.report.grids import Grid, LoadSample, grids
from sisbench.report.page import recorded, report_page
from sisbench.report.paired import paired_tables
from sisbench.report.published import MetricFacts, paper_tables
from sisbench.report.quality import Material, quality_tables
from sisbench.report.render import RENDERERS, to_rich
from sisbench.report.tables import Table

FORMATS = tuple(RENDERERS)


def report_tables(
    material: Material,
    *,
    versus: str | None = None,
    protocols: Sequence[str] = (),
    uncertainty: bool = False,
    metric_facts: MetricFacts = MappingProxyType({}),
) -> list[Table]:
    """Quality tables, then the comparison with what ``versus`` names: a method, or a paper."""
    tables = quality_tables(material, protocols, uncertainty=uncertainty)
    if versus in {row.key for row in material.methods}:
        tables += paired_tables(material, str(versus), material.chosen(protocols))
    elif versus:
        chosen = material.chosen(protocols) or material.protocols
        tables += paper_tables(versus, material, chosen, metric_facts)
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


def timing_csv(material: Material) -> str:
    """One row a method, data set and task: images, median and mean seconds an image, parameters,
    operations, peak memory in bytes (empty where not recorded). Kept apart from the tables, which
    are the same bytes for the same scores."""
    stream = io.StringIO()
    out = csv.writer(stream, lineterminator="\n")
    head = ["method", "dataset", "task", "images", "median_seconds", "mean_seconds"]
    out.writerow([*head, "parameters", "flops", "peak_memory"])
    for where, rows in material.records.items():
        taken = material.seconds[where]
        middle, mean = statistics.median(taken), statistics.fmean(taken)
        costs = ("" if c is None else f"{c:.0f}" for c in recorded(rows).values())
        out.writerow([*where, len(taken), f"{middle:.6g}", f"{mean:.6g}", *costs])
    return stream.getvalue()


def fresh(folder: Path) -> Path:
    """``folder``, emptied: nothing of an earlier report stays behind."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def console_tables(
    run: Path,
    *,
    versus: str | None = None,
    protocols: Sequence[str] = (),
    uncertainty: bool = False,
    metric_facts: MetricFacts = MappingProxyType({}),
) -> list[Any]:
    """The report's tables as rich tables, for ``rich.print``."""
    material = Material.of(run)
    tables = report_tables(
        material,
        versus=versus,
        protocols=protocols,
        uncertainty=uncertainty,
        metric_facts=metric_facts,
    )
    return [to_rich(t) for t in tables]


def _write_pictures(folder: Path, pictures: Sequence[Chart | Grid]) -> None:
    for name, picture in zip(unique([p.name for p in pictures]), pictures, strict=True):
        picture.write(folder, name)


def build_report(
    run: Path,
    *,
    formats: Sequence[str] = FORMATS,
    versus: str | None = None,
    load_sample: LoadSample | None = None,
    protocols: Sequence[str] = (),
    uncertainty: bool = False,
    metric_facts: MetricFacts = MappingProxyType({}),
) -> Path:
    """Write RUN/report (tables, charts, grids, timing.csv, report.html); returns the page.

    Args:
        formats: of the tables: "md", "tex", "csv", "html".
        versus: a method of the run, for paired differences on the same items; or a paper whose
            figures stand beside the run's: ``ca2sis``, ``ca2sis_table1``, or a YAML file.
        load_sample: (data set config, sample id) -> (image (H, W, 3) uint8, label map (H, W) int);
            without it grids show generated images only.
        protocols: several are shown side by side; () gives every protocol tables of its own.
        uncertainty: print standard errors.
        metric_facts: of metrics that a paper's table has and the run did not use.

    Raises:
        UserError: no run there, unknown format, protocol or paper table; a link in the way.
    """
    material = Material.of(run)
    report = run / "report"
    for folder in (report, *(report / name for name in ("tables", "charts", "grids"))):
        if folder.is_symlink():
            raise UserError(f"{folder} is a link", "remove it: a report stays in its run folder")
    tables = report_tables(
        material,
        versus=versus,
        protocols=protocols,
        uncertainty=uncertainty,
        metric_facts=metric_facts,
    )
    drawn = charts(material, material.chosen(protocols))
    made = grids(material, load_sample)
    write_tables(fresh(report / "tables"), tables, formats)
    _write_pictures(fresh(report / "charts"), drawn)
    _write_pictures(fresh(report / "grids"), made)
    write_atomic(report / "timing.csv", timing_csv(material).encode())
    page = report / "report.html"
    write_atomic(page, report_page(material, tables, drawn, made).encode())
    return page
