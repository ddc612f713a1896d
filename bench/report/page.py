"""The self-contained page: summary, tables, charts, grids, dashes, protocol, provenance."""

from __future__ import annotations

import base64
import statistics
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from sisbench.report.charts import Chart
from sisbench.report.grids import Grid
from sisbench.report.quality import Material
from sisbench.report.render import to_html
from sisbench.report.tables import ARROWS, DASH, SEEDED_SENTENCE, Table, count, scrub, slug


def report_page(
    material: Material, tables: Sequence[Table], charts: Sequence[Chart], grids: Sequence[Grid]
) -> str:
    """One HTML document without any outside reference; everything but our own tables is escaped
    by the template."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(
        files("sisbench.report").joinpath("template.html").read_text(encoding="utf-8")
    )
    manifest = material.manifest
    return template.render(
        name=str(manifest.get("name") or material.root.name),
        style=Markup(files("sisbench.report").joinpath("style.css").read_text(encoding="utf-8")),
        summary=_summary(material),
        seeded=SEEDED_SENTENCE if any(t.seeded(y) for t in tables for y in _rows(t)) else "",
        methods=_methods(material),
        datasets=_datasets(material),
        tables=[(slug(t.name), t.title, Markup(to_html(t))) for t in tables],
        charts=[(c.title, c.wide, _uri("image/svg+xml", c.svg)) for c in charts],
        grids=[(g.title, g.note, _uri("image/jpeg", g.encoded("JPEG"))) for g in grids],
        dashes=_dashes(tables),
        troubles=_troubles(material),
        metrics=_metrics(material),
        definitions=[_definition(p) for p in material.protocol_fields],
        protocols=material.protocols,
        costs=_costs(material),
        provenance=list(_flat(manifest.get("provenance") or {})),
        config=list(_flat(manifest.get("config") or {})),
    )


def _definition(protocol: Mapping[str, Any]) -> tuple[str, list[tuple[str, str]], list[str]]:
    """(id, fields, remarks) of a protocol."""
    fields = {k: v for k, v in protocol.items() if k not in ("id", "remarks")}
    remarks = [scrub(str(r)) for r in protocol.get("remarks") or ()]
    return str(protocol["id"]), list(_flat(fields)), remarks


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


def _summary(material: Material) -> list[tuple[str, str]]:
    states: dict[str, int] = {}
    for cell in material.cells:
        states[str(cell.about["status"])] = states.get(str(cell.about["status"]), 0) + 1
    figures = sum(s.value is not None for s in material.scores)
    made = sum(map(len, material.seconds.values()))
    return [
        ("Protocols", ", ".join(material.protocols) or "none"),
        ("Methods", ", ".join(r.title for r in material.methods if not r.ceiling)),
        ("Data sets and tasks", "; ".join(f"{d}, {t}" for d, t in material.places)),
        ("Cells", ", ".join(f"{n} {state}" for state, n in states.items())),
        ("Images", count(made)),
        ("Figures", f"{count(figures)} and {count(len(material.scores) - figures)} dashes"),
    ]


def _methods(material: Material) -> list[tuple[str, str, str, str]]:
    """(title, paper, weights, sha256) once for each method and weights."""
    found: dict[tuple[str, str, str, str], None] = {}
    for cell in material.cells:
        method = cell.about["method"]
        weights = method.get("weights") or {}
        source, digest = (scrub(str(weights.get(k) or "–")) for k in ("source", "sha256"))
        found[str(method["title"]), str(method.get("paper") or "–"), source, digest] = None
    return list(found)


def recorded(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Parameters, operations an image and peak memory of the item rows of one method."""
    found: dict[str, float | None] = {}
    for name in ("parameters", "flops", "peak_memory"):
        known = [float(r[name]) for r in rows if r.get(name) is not None]
        middle = statistics.fmean(known) if known else None
        found[name] = max(known) if known and name == "peak_memory" else middle
    return found


def _costs(material: Material) -> list[tuple[str, ...]]:
    """(method, data set and task, images, median seconds, M parameters, GFLOP, peak MiB)."""
    titles = {row.key: row.title for row in material.methods}
    found = []
    for (method, dataset, task), rows in material.records.items():
        cost, seconds = recorded(rows), material.seconds[method, dataset, task]
        scales = {"parameters": 1e-6, "flops": 1e-9, "peak_memory": 2.0**-20}
        shown = (
            DASH if (v := cost[name]) is None else f"{v * scale:,.{int(name != 'peak_memory')}f}"
            for name, scale in scales.items()
        )
        middle = f"{statistics.median(seconds):.3g}"
        place = f"{dataset}, {task}"
        found.append((titles.get(method, method), place, count(len(rows)), middle, *shown))
    return found


def _datasets(material: Material) -> list[tuple[str, str, str, str]]:
    """(label, split, images, fingerprint)."""
    found: dict[tuple[str, str, str, str], None] = {}
    for cell in material.cells:
        about = cell.about["dataset"]
        n = about.get("n")
        shown = count(n) if isinstance(n, int) else "–"
        print_ = str(about.get("fingerprint") or "–")
        found[str(about["label"]), str(about.get("split") or "–"), shown, print_] = None
    return list(found)


def _dashes(tables: Sequence[Table]) -> list[tuple[str, list[str]]]:
    """(reason, where) of every dash and remark, deduplicated."""
    found: dict[str, list[str]] = {}
    for table in tables:
        for row, line in zip(table.rows, table.cells, strict=True):
            for cell in line:
                for note in cell.notes if cell.value is None else ():
                    where = f"{row.title}: {table.title}"
                    if where not in found.setdefault(table.notes[note], []):
                        found[table.notes[note]].append(where)
    return list(found.items())


def _troubles(material: Material) -> list[tuple[str, str, str]]:
    """(cell, state, reason) of cells that are not done, and of samples that failed."""
    found = []
    for cell in material.cells:
        about = cell.about
        name = f"{about['method']['title']}: {about['dataset']['label']}, {about['task']['slug']}"
        if about["status"] != "done":
            found.append((name, str(about["status"]), scrub(str(about.get("reason") or "–"))))
        failed = [r for r in cell.items() if r["error"]]
        for row in failed[:3]:
            found.append((f"{name}, sample {row['id']}", "failed", scrub(row["error"])))
        if len(failed) > 3:
            found.append((name, "failed", f"{count(len(failed) - 3)} further samples"))
    return found


def _metrics(material: Material) -> list[tuple[str, str, str]]:
    """(title, better, how it is printed)."""
    better = {"up": f"higher {ARROWS['up']}", "down": f"lower {ARROWS['down']}", "": "–"}
    used = dict.fromkeys(s.metric for s in material.scores)
    rows = []
    for name in used:
        about = material.metrics.get(name, {})
        scale = float(about.get("scale", 1.0))
        times = f", stored value times {scale:g}" if scale != 1 else ""
        unit = f" {about['unit']}" if about.get("unit") else ""
        shown = f"{about.get('digits', 2)} decimals{unit}{times}"
        rows.append((str(about.get("title", name)), better[about.get("direction", "")], shown))
    return rows
