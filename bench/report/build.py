"""From a run folder to RUN/report: tables, charts, grids, scores.csv, timing.csv, report.html."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sisbench.core.errors import UserError, did_you_mean
from sisbench.core.store import read_json, write_atomic, write_json
from sisbench.report.charts import Chart, charts
from sisbench.report.grids import Grid, LoadSample, LoadTruth, grids
from sisbench.report.page import report_page
from sisbench.report.paired import Comparison, comparisons
from sisbench.report.papers import Facts
from sisbench.report.published import paper_tables
from sisbench.report.quality import RunResults, quality_tables
from sisbench.report.render import RENDERERS, to_rich
from sisbench.report.tables import Table
from sisbench.report.tidy import scores_csv, timing_csv

FORMATS = tuple(RENDERERS)
FOLDERS = ("tables", "charts", "grids")
VERSUS = "versus.json"


def report_tables(
    results: RunResults,
    *,
    versus: str | None = None,
    protocols: Sequence[str] = (),
    uncertainty: bool = False,
    all_columns: bool = False,
) -> list[Table]:
    """Quality tables, then the comparison with what ``versus`` names: a method, or a paper."""
    tables = quality_tables(results, protocols, uncertainty=uncertainty, all_columns=all_columns)
    return tables + (versus_tables(results, versus, protocols)[0] if versus else [])


def versus_tables(
    results: RunResults, versus: str, protocols: Sequence[str] = ()
) -> tuple[list[Table], list[Comparison]]:
    """The comparison with a method of the run (by its label or title), or with a paper; the
    second part is empty for a paper.

    Raises:
        UserError: neither a method of the run nor a paper.
    """
    chosen = results.chosen(protocols)
    own = [row for row in results.methods if not row.ceiling]
    label = next((r.key for r in own if versus == r.key), "")
    label = label or next((r.key for r in own if versus == r.title), "")
    if label:
        compared = comparisons(results, label, chosen)
        return [one.table() for one in compared], compared
    try:
        protocols = chosen or results.protocols
        return paper_tables(versus, results, protocols, results.facts), []
    except UserError as error:
        listed = ", ".join(row.key for row in own) or "none"
        near = did_you_mean(versus, {name for row in own for name in (row.key, row.title)})
        hint = f"{error.hint}; methods of this run: {listed}".removeprefix("; ")
        hint = near if near.startswith("did you mean") else hint
        raise UserError(error.message, hint) from error


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
    metric_facts: Facts = MappingProxyType({}),
    all_columns: bool = False,
) -> list[Any]:
    """The report's tables as rich tables, for ``rich.print``."""
    results = RunResults.of(run, metric_facts)
    tables = report_tables(
        results,
        versus=versus,
        protocols=protocols,
        uncertainty=uncertainty,
        all_columns=all_columns,
    )
    return [to_rich(t) for t in tables]


def _write_pictures(folder: Path, pictures: Sequence[Chart | Grid]) -> None:
    for name, picture in zip(unique([p.name for p in pictures]), pictures, strict=True):
        picture.write(folder, name)


def write_scores_csv(run: Path, metric_facts: Facts = MappingProxyType({})) -> None:
    """RUN/report/scores.csv, with the p-values of the comparisons that the report keeps.

    Raises:
        UserError: no run there, or its report cannot be written.
    """
    results, report = RunResults.of(run, metric_facts), run / "report"
    _, compared, _ = _against(results, report, None, ())
    with _writable(report):
        write_atomic(report / "scores.csv", scores_csv(results, compared).encode())


def _against(
    results: RunResults, report: Path, versus: str | None, protocols: Sequence[str]
) -> tuple[list[Table], list[Comparison], list[str]]:
    """(tables, comparisons, names) of earlier reports' ``versus`` and the one asked for now: each
    is made anew, so that none goes stale. An earlier one that names nothing any more is dropped."""
    tables: list[Table] = []
    compared: list[Comparison] = []
    names = []
    for name in dict.fromkeys([*_kept(report), *([versus] if versus else [])]):
        try:
            more, pairs = versus_tables(results, name, protocols)
        except UserError:
            if name == versus:
                raise
            continue
        tables, compared = tables + more, compared + pairs
        names.append(name)
    return tables, compared, names


def _kept(report: Path) -> list[str]:
    """What earlier reports were compared with; nothing where the list is damaged."""
    try:
        names = read_json(report / VERSUS)
    except UserError:
        return []
    return [n for n in names if isinstance(n, str)] if isinstance(names, list) else []


@contextmanager
def _writable(report: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{report} cannot be written: {error.strerror or error}",
            "give the report another folder: sisbench report RUN --out DIR",
        ) from error


def _check_folder(report: Path, chosen: bool) -> None:
    """Refuse links and, where the user chose the folder, one with files of another kind: tables/,
    charts/ and grids/ are emptied.

    Raises:
        UserError: see above.
    """
    for folder in (report, *(report / name for name in FOLDERS)):
        if folder.is_symlink():
            raise UserError(f"{folder} is a link", "remove it: a report stays in its own folder")
    taken = chosen and report.is_dir() and any(report.iterdir())
    if taken and not (report / "report.html").is_file():
        raise UserError(f"{report} is not empty and holds no report", "give an empty folder")


def build_report(
    run: Path,
    *,
    out: Path | None = None,
    formats: Sequence[str] = FORMATS,
    versus: str | None = None,
    load_sample: LoadSample | None = None,
    load_truth: LoadTruth | None = None,
    protocols: Sequence[str] = (),
    uncertainty: bool = False,
    say: Callable[[str], None] = lambda text: None,
    metric_facts: Facts = MappingProxyType({}),
    all_columns: bool = False,
) -> Path:
    """Write tables, charts, grids, scores.csv, timing.csv and report.html; returns the page.

    Args:
        out: folder of the report; by default RUN/report.
        formats: of the tables: "md", "tex", "csv", "html".
        versus: a method of the run, for paired differences on the same items; or a paper whose
            scores stand beside the run's: ``ca2sis``, ``ca2sis_table1``, or a YAML file. Later
            reports into the same folder make these tables again (it is listed in versus.json).
        load_sample: (data set config, sample id) -> (image (H, W, 3) uint8, label map (H, W) int);
            without it grids show generated images only.
        load_truth: (data set config, task, item) -> the true image of an edit, or None.
        protocols: several are shown side by side; () gives every protocol tables of its own.
        uncertainty: print standard errors.
        say: gets one line for each file of the run that is missing or damaged.
        metric_facts: of metrics that a paper's table has and the run did not use.
        all_columns: also those of which no method has a score.

    Raises:
        UserError: no run there, unknown format, protocol or paper table; a link in the way, or a
            folder that cannot be written.
    """
    results = RunResults.of(run, metric_facts)
    for fault in results.faults:
        say(fault)
    report = out or run / "report"
    _check_folder(report, chosen=out is not None)
    tables = quality_tables(results, protocols, uncertainty=uncertainty, all_columns=all_columns)
    more, compared, names = _against(results, report, versus, protocols)
    drawn = charts(results, results.chosen(protocols))
    pictures = grids(results, load_sample, load_truth=load_truth)
    with _writable(report):
        write_tables(fresh(report / "tables"), tables + more, formats)
        _write_pictures(fresh(report / "charts"), drawn)
        _write_pictures(fresh(report / "grids"), pictures)
        write_atomic(report / "scores.csv", scores_csv(results, compared).encode())
        write_atomic(report / "timing.csv", timing_csv(results).encode())
        if names:
            write_json(report / VERSUS, names)
        page = report / "report.html"
        write_atomic(page, report_page(results, tables + more, drawn, pictures).encode())
    return page
