"""Charts of a run: bars for each metric, quality against time, IoU by class; PNG and SVG."""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sisbench.core.errors import UserError
from sisbench.core.label_space import LabelSpace
from sisbench.core.log import CEILING, SEEDED, ScoreRecord
from sisbench.core.store import write_atomic
from sisbench.report.quality import RunResults
from sisbench.report.tables import ARROWS, DAGGER, DASH, Column, describe, one_line, slug

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B8A600", "#555555")
"""Okabe and Ito's colours, which people with colour-blindness tell apart (yellow darkened)."""

MARKERS = "osD^vPX*<>hp"
_STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "svg.hashsalt": "sisbench",
    "figure.dpi": 150,
}
_CLASSES_A_PANEL = 40


@dataclass(frozen=True)
class Chart:
    """A drawn chart: file name without suffix, heading, both files' bytes; ``wide`` ones take the
    page's whole width."""

    name: str
    title: str
    png: bytes
    svg: bytes
    wide: bool = False

    def write(self, folder: Path, name: str) -> None:
        """``folder/name.png`` and ``folder/name.svg``."""
        write_atomic(folder / f"{name}.png", self.png)
        write_atomic(folder / f"{name}.svg", self.svg)


def plain(text: str, limit: int = 34) -> str:
    """A label that matplotlib draws as it is: no mathematics, one line, cut at ``limit``."""
    text = one_line(text)
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return text.replace("$", r"\$")


def _finish(figure: Figure, name: str, title: str) -> Chart:
    engine = figure.get_layout_engine()
    assert engine is not None  # _figure asks for one
    engine.execute(figure)  # one layout for both files
    figure.set_layout_engine(None)  # "none" would have each file drawn twice
    png, svg = io.BytesIO(), io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    wide = figure.get_figwidth() > 6
    return Chart(slug(name), title, png.getvalue(), svg.getvalue(), wide)


def _figure(width: float, height: float, panels: int, across: int = 3) -> tuple[Figure, list[Axes]]:
    """A figure of ``panels`` axes, ``across`` a row, each ``width`` x ``height`` inches; made
    without pyplot, so that no state is left behind."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns, rows = min(panels, across), -(-panels // across)
    figure = Figure(figsize=(1.4 + width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in axes[panels:]:
        spare.set_axis_off()
    return figure, axes[:panels]


def _colours(results: RunResults) -> dict[str, tuple[str, str, str]]:
    """Method label -> colour, marker, hatch; a method looks the same in every chart."""
    methods = [r.key for r in results.methods if not r.ceiling]
    hatches = ("", "///", "...", "xxx")
    return {
        m: (COLOURS[i % 8], MARKERS[i % len(MARKERS)], hatches[i // 8 % 4])
        for i, m in enumerate(methods)
    }


def _name(score: ScoreRecord) -> str:
    return plain(score.title) + (DAGGER if SEEDED in score.marks else "")


def charts(results: RunResults, protocols: Sequence[str] = ()) -> list[Chart]:
    """Every chart that the scores allow, protocol by protocol, in the order of the tables.

    Args:
        protocols: those to draw; () draws all.
    """
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        drawn: list[Chart] = []
        for protocol in protocols or results.protocols:
            scores = [s for s in results.scores if s.protocol == protocol]
            by_metric: dict[str, list[ScoreRecord]] = {}
            for score in scores:
                if score.value is not None and math.isfinite(score.value):
                    by_metric.setdefault(score.metric, []).append(score)
            for metric, found in by_metric.items():
                column = Column(metric, **describe(metric, results.metrics))
                drawn.append(_bars(results, found, column, protocol))
                drawn += _times(results, found, column, protocol)
                drawn += _classes(results, found, column, protocol)
        return drawn


def _by_place(scores: Sequence[ScoreRecord]) -> dict[tuple[str, str], list[ScoreRecord]]:
    places: dict[tuple[str, str], list[ScoreRecord]] = {}
    for score in scores:
        places.setdefault((score.dataset, score.task), []).append(score)
    return places


def _bars(
    results: RunResults, scores: Sequence[ScoreRecord], column: Column, protocol: str
) -> Chart:
    """One panel a data set and task, one bar a method; a dashed line is the real photographs."""
    looks, places = _colours(results), _by_place(scores)
    methods = [r for r in results.methods if r.key in looks]
    names = {s.method: _name(s) for s in sorted(scores, key=lambda s: SEEDED in s.marks)}
    figure, axes = _figure(2.9, 1.05 + 0.34 * len(methods), len(places))
    for axis, ((dataset, task), here) in zip(axes, places.items(), strict=True):
        axis.set_title(f"{plain(dataset)}\n{plain(task)}", fontsize=9)
        axis.set_xlabel(plain(column.header))
        axis.grid(axis="x", color="#dddddd", linewidth=0.6)
        for y, row in enumerate(methods):
            if row.key not in {s.method for s in here}:
                axis.annotate(DASH, (0, y), (4, 0), textcoords="offset points", va="center")
        for score in here:
            value = float(score.value or 0) * column.scale
            if CEILING in score.marks:
                axis.axvline(value, color="#444444", linestyle="--", linewidth=1)
                continue
            y = [r.key for r in methods].index(score.method)
            colour, _, hatch = looks[score.method]
            error = (score.se or 0) * column.scale
            axis.barh(y, value, color=colour, hatch=hatch, edgecolor="white", height=0.72)
            if error:
                axis.errorbar(value, y, xerr=error, color="#222222", capsize=2, linewidth=1)
            end = max(value + error, 0)
            axis.annotate(
                column.printed(float(score.value or 0)),
                (end, y),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
        axis.margins(x=0.2)
        axis.set_xlim(left=min(0, axis.get_xlim()[0]) if axis.get_xlim()[0] < 0 else 0)
        axis.set_yticks(range(len(methods)), [names.get(r.key, plain(r.title)) for r in methods])
        axis.tick_params(labelleft=axis in axes[::3])
        axis.set_ylim(len(methods) - 0.45, -0.55)
    return _finish(figure, f"{column.key}-{protocol}", f"{column.header}, protocol {protocol}")


def _times(
    results: RunResults, scores: Sequence[ScoreRecord], column: Column, protocol: str
) -> list[Chart]:
    """Quality against median seconds an image, logarithmic: one panel a place with two methods."""
    looks = _colours(results)
    places: dict[tuple[str, str], list[tuple[float, ScoreRecord]]] = {}
    for (dataset, task), here in _by_place(scores).items():
        for score in here:
            taken = results.seconds.get((score.method, dataset, task), [])
            if taken and score.method in looks:
                points = places.setdefault((dataset, task), [])
                points.append((statistics.median(taken), score))
    places = {place: points for place, points in places.items() if len(points) > 1}
    if not places:
        return []
    figure, axes = _figure(3.3, 2.9, len(places))
    named: dict[str, Artist] = {}
    for axis, ((dataset, task), points) in zip(axes, places.items(), strict=True):
        for seconds, score in points:
            colour, marker, _ = looks[score.method]
            dot = axis.errorbar(
                seconds,
                float(score.value or 0) * column.scale,
                yerr=(score.se or 0) * column.scale or None,
                fmt=marker,
                color=colour,
                markersize=8,
                capsize=2,
            )
            named.setdefault(_name(score), dot[0])
        axis.set_xscale("log")
        _plain_ticks(axis, [seconds for seconds, _ in points])
        axis.margins(0.12)
        axis.grid(color="#dddddd", linewidth=0.6)
        axis.set_xlabel("seconds an image (median) " + ARROWS["down"])
        axis.set_ylabel(plain(column.header))
        axis.set_title(f"{plain(dataset)}\n{plain(task)}", fontsize=9)
    figure.legend(list(named.values()), list(named), loc="outside right upper", frameon=False)
    title = f"{column.header} against time, protocol {protocol}"
    return [_finish(figure, f"time-{column.key}-{protocol}", title)]


def _plain_ticks(axis: Axes, seconds: Sequence[float]) -> None:
    """1-2-5 ticks written as numbers, over at least one decade."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = min(seconds) / 1.5, max(seconds) * 1.5
    centre = math.sqrt(low * high)
    low, high = min(low, centre / 3.2), max(high, centre * 3.2)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if last - first <= 3 else (1,)
    ticks = [step * 10.0**e for e in range(first, last + 1) for step in steps]
    axis.set_xlim(low, high)
    axis.xaxis.set_major_locator(FixedLocator([t for t in ticks if low <= t <= high]))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _classes(
    results: RunResults, scores: Sequence[ScoreRecord], column: Column, protocol: str
) -> list[Chart]:
    """One row a class in the label space's order, one dot a method; undefined classes are left
    out."""
    looks, drawn = _colours(results), []
    for (dataset, task), here in _by_place(scores).items():
        named = [s for s in here if s.per_class]
        classes = _ordered_classes(results, dataset, [s.per_class for s in named])
        if not classes:
            continue
        panels = [
            classes[i : i + _CLASSES_A_PANEL] for i in range(0, len(classes), _CLASSES_A_PANEL)
        ]
        figure, axes = _figure(3.4, 0.8 + 0.2 * len(panels[0]), len(panels), len(panels))
        for axis, members in zip(axes, panels, strict=True):
            for score in named:
                colour, marker, _ = looks.get(score.method, ("#444444", "|", ""))
                points = [
                    (float(v) * column.scale, y)
                    for y, name in enumerate(members)
                    if (v := score.per_class.get(name)) is not None
                ]
                label = _name(score) if axis is axes[0] else None
                axis.scatter(
                    [x for x, _ in points],
                    [y for _, y in points],
                    color=colour,
                    marker=marker,
                    s=26,
                    alpha=0.85,
                    label=label,
                )
            axis.set_yticks(range(len(members)), [plain(name) for name in members])
            axis.set_ylim(len(panels[0]) - 0.4, -0.6)
            axis.grid(color="#e4e4e4", linewidth=0.6)
            axis.set_xlabel(plain(column.header))
        figure.suptitle(plain(f"{dataset}, {task}", 60), fontsize=9)
        figure.legend(loc="outside right upper", frameon=False)
        title = f"{column.header} by class: {dataset}, {task}, protocol {protocol}"
        drawn.append(_finish(figure, f"classes-{column.key}-{dataset}-{task}-{protocol}", title))
    return drawn


def _ordered_classes(
    results: RunResults, dataset: str, values: Sequence[Mapping[str, float | None]]
) -> list[str]:
    """Names of the classes with a value, in the order of the data set's label space, so that every
    chart has them alike; names that it does not know come last, by the alphabet."""
    defined = {n for one in values for n, v in one.items() if v is not None and math.isfinite(v)}
    entries = (c.entry.dataset for c in results.cells if c.entry.dataset.label == dataset)
    space = next((entry.space for entry in entries), "")
    try:
        order = LabelSpace.named(space).classes
    except UserError:  # a space of another package
        order = ()
    return [n for n in order if n in defined] + sorted(defined - set(order))
