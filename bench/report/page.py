"""The self-contained page: summary, tables, charts, grids, dashes, protocol, provenance."""

from __future__ import annotations

import base64
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from sisbench.core.log import ItemRow, MetricFacts, ProtocolEntry, ScoreRecord
from sisbench.report.charts import Chart
from sisbench.report.grids import Grid
from sisbench.report.quality import RunResults
from sisbench.report.render import to_html
from sisbench.report.tables import (
    ARROWS,
    DASH,
    SEEDED_SENTENCE,
    Table,
    count,
    describe,
    one_line,
    scrub,
    slug,
    symbol,
)


def report_page(
    results: RunResults, tables: Sequence[Table], charts: Sequence[Chart], grids: Sequence[Grid]
) -> str:
    """One HTML document without any outside reference; everything but our own tables is escaped
    by the template."""
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    template = environment.from_string(
        files("sisbench.report").joinpath("template.html").read_text(encoding="utf-8")
    )
    manifest = results.manifest
    return template.render(
        name=manifest.name or results.root.name,
        style=Markup(files("sisbench.report").joinpath("style.css").read_text(encoding="utf-8")),
        summary=_summary(results),
        seeded=SEEDED_SENTENCE if any(t.seeded(y) for t in tables for y in _rows(t)) else "",
        methods=_methods(results),
        datasets=_datasets(results),
        tables=[(slug(t.name), t.title, Markup(to_html(t))) for t in tables],
        charts=[(c.title, c.wide, _uri("image/svg+xml", c.svg)) for c in charts],
        grids=[(g.title, g.note, _uri("image/jpeg", g.encoded("JPEG"))) for g in grids],
        matrix=_matrix(results),
        troubles=_troubles(results),
        faults=[scrub(fault) for fault in results.faults],
        metrics=_metrics(results),
        definitions=[_definition(p) for p in results.protocol_fields],
        protocols=results.protocols,
        costs=_costs(results),
        provenance=list(_flat(manifest.provenance)),
        config=list(_flat(manifest.config)),
    )


def _printable(value: Any) -> Any:
    """A value that goes into the template: text in one line, markup as it is."""
    return one_line(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _definition(protocol: ProtocolEntry) -> tuple[str, list[tuple[str, str]], list[str]]:
    """(id, fields, remarks) of a protocol."""
    fields = protocol.fields()
    remarks = [scrub(str(r)) for r in fields.pop("remarks", None) or ()]
    return protocol.id, list(_flat(fields)), remarks


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _rows(table: Table) -> range:
    return range(len(table.rows))


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Nested mappings as (dotted key, text); absolute paths are cut to their last part."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple) and any(isinstance(v, Mapping) for v in value):
        for at, inner in enumerate(value):
            yield from _flat(inner, f"{key}[{at}]")
    else:
        text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        yield key, scrub(text) if text else "–"


def _summary(results: RunResults) -> list[tuple[str, str]]:
    states = Counter(cell.entry.status for cell in results.cells)
    scores = sum(s.value is not None for s in results.scores)
    made = sum(map(len, results.seconds.values()))
    return [
        ("Protocols", ", ".join(results.protocols) or "none"),
        ("Methods", ", ".join(r.title for r in results.methods if not r.ceiling)),
        ("Data sets and tasks", "; ".join(f"{d}, {t}" for d, t in results.places)),
        ("Cells", ", ".join(f"{n} {state}" for state, n in states.items())),
        ("Images", count(made)),
        ("Scores", f"{count(scores)} and {count(len(results.scores) - scores)} dashes"),
    ]


def _methods(results: RunResults) -> list[tuple[str, ...]]:
    """(title, paper, weights, sha256, what it reads) once for each method and weights."""
    found: dict[tuple[str, ...], None] = {}
    for cell in results.cells:
        method, weights = cell.entry.method, cell.entry.method.weights
        source, digest = (scrub(text or "–") for text in (weights.source, weights.sha256))
        reads = scrub(method.reads or "–")
        found[method.title, method.paper or "–", source, digest, reads] = None
    return list(found)


def recorded(rows: Sequence[ItemRow]) -> dict[str, float | None]:
    """Parameters, operations an image, peak memory and seconds of encoding of the item rows of one
    method."""
    found: dict[str, float | None] = {}
    for name in ("parameters", "flops", "peak_memory", "encode_seconds"):
        known = [float(v) for r in rows if (v := getattr(r, name)) is not None]
        middle = statistics.fmean(known) if known else None
        found[name] = max(known) if known and name == "peak_memory" else middle
    return found


def _costs(results: RunResults) -> list[tuple[str, ...]]:
    """(method, data set and task, images, median seconds, M parameters, GFLOP, peak MiB)."""
    titles = {row.key: row.title for row in results.methods}
    found = []
    for (method, dataset, task), rows in results.records.items():
        cost, seconds = recorded(rows), results.seconds[method, dataset, task]
        scales = {"parameters": 1e-6, "flops": 1e-9, "peak_memory": 2.0**-20}
        shown = (
            DASH if (v := cost[name]) is None else f"{v * scale:,.{int(name != 'peak_memory')}f}"
            for name, scale in scales.items()
        )
        middle = f"{statistics.median(seconds):.3g}"
        if cost["encode_seconds"] is not None:
            middle += f" (and {cost['encode_seconds']:.3g} to encode)"
        place = f"{dataset}, {task}"
        found.append((titles.get(method, method), place, count(len(rows)), middle, *shown))
    return found


def _datasets(results: RunResults) -> list[tuple[str, str, str, str]]:
    """(label, split, images, fingerprint)."""
    found: dict[tuple[str, str, str, str], None] = {}
    for cell in results.cells:
        data = cell.entry.dataset
        shown = "–" if data.n is None else count(data.n)
        found[data.label, data.split or "–", shown, data.fingerprint or "–"] = None
    return list(found)


@dataclass(frozen=True)
class Matrix:
    """What came out, method by place: ``rows`` are (title, one text and note letters a place),
    ``notes`` (letter, metrics, reason)."""

    places: list[str]
    rows: list[tuple[str, list[tuple[str, str]]]]
    notes: list[tuple[str, str, str]]


def _matrix(results: RunResults) -> Matrix:
    """How many scores each method has of those at each data set and task, and why not all."""
    notes: dict[str, dict[str, None]] = {}  # reason -> metrics
    rows = []
    for method in results.methods:
        if method.ceiling:
            continue
        line = []
        for place in results.places:
            own = [
                s for s in results.scores if (s.method, s.dataset, s.task) == (method.key, *place)
            ]
            states = [c.entry for c in results.cells if c.entry.place == (method.key, *place)]
            reasons = [(scrub(e.reason), "") for e in states if e.reason]
            for s in own:
                if s.value is None:
                    title = describe(s.metric, results.metrics)["title"]
                    reasons.append((scrub(s.reason) or "no reason was recorded", title))
            for reason, title in reasons:
                notes.setdefault(reason, {})[title] = None
            letters = dict.fromkeys(symbol(list(notes).index(reason)) for reason, _ in reasons)
            line.append((_outcome(own, [e.status for e in states]), ",".join(letters)))
        rows.append((method.title, line))
    legend = [
        (symbol(at), ", ".join(filter(None, titles)) or "all", reason)
        for at, (reason, titles) in enumerate(notes.items())
    ]
    return Matrix([f"{d}, {t}" for d, t in results.places], rows, legend)


def _outcome(scores: Sequence[ScoreRecord], states: Sequence[str]) -> str:
    """``7 of 9 scores``, with the state of cells that are not done."""
    said = ", ".join(dict.fromkeys(state for state in states if state != "done"))
    there = sum(s.value is not None for s in scores)
    shown = f"{there} of {len(scores)} scores" if scores else ("no scores" if states else DASH)
    return f"{said}: {shown}" if said else shown


def _troubles(results: RunResults) -> list[tuple[str, str, str]]:
    """(cell, state, reason) of cells that are not done, and of samples that failed."""
    found: list[tuple[str, str, str]] = []
    for cell in results.cells:
        entry = cell.entry
        name = f"{entry.method.title}: {entry.dataset.label}, {entry.task.slug}"
        if entry.status != "done":
            found.append((name, entry.status, scrub(entry.reason or "–")))
        failed = [r for r in results.rows[cell.key] if r.error]
        for row in failed[:3]:
            found.append((f"{name}, sample {row.id}", "failed", scrub(row.error)))
        if len(failed) > 3:
            found.append((name, "failed", f"{count(len(failed) - 3)} further samples"))
    return found


def _metrics(results: RunResults) -> list[tuple[str, str, str]]:
    """(title, better, how it is printed)."""
    better = {"up": f"higher {ARROWS['up']}", "down": f"lower {ARROWS['down']}", "": "–"}
    used = dict.fromkeys(s.metric for s in results.scores)
    rows = []
    for name in used:
        facts = results.metrics.get(name, MetricFacts(title=name))
        times = f", stored value times {facts.scale:g}" if facts.scale != 1 else ""
        unit = f" {facts.unit}" if facts.unit else ""
        rows.append((facts.title, better[facts.direction], f"{facts.digits} decimals{unit}{times}"))
    return rows
