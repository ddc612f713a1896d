"""``sisbench explain``: what exactly a number is, under a protocol, and how the papers differ."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from sisbench import metrics
from sisbench.core.errors import Unavailable, UserError, did_you_mean
from sisbench.core.log import BASIS, MetricFacts, ScoreRecord
from sisbench.core.store import CellView, RunStore
from sisbench.data.elsewhere import some
from sisbench.protocol import Protocol, get_protocol, presets

_SECTIONS = ("Args:", "Attributes:", "Example:", "Examples:", "Raises:", "Returns:", "Yields:")
_ALWAYS = ("quantise", "noise", "pairs", "absent", "shape_swap", "seed")


def explain(metric: str, protocol: str) -> str:
    """Formula, rows, real set, conventions, weights, file and line of a metric, and every preset's
    choices beside each other. An empty ``metric`` lists them all.

    Raises:
        UserError: unknown metric or protocol.
    """
    chosen = get_protocol(protocol)
    if not metric:
        classes, broken = metrics.registry.all()
        rows = [(n, cls.title) for n, cls in classes.items()]
        rows += [(n, error.message) for n, error in broken.items()]
        width = max(len(n) for n, _ in rows)
        return "\n".join(f"{name:<{width}}  {title}" for name, title in rows)
    cls = metrics.registry.get(metric)
    lines = [f"{cls.title} ({metric}) under {chosen.id}: {chosen.title}", ""]
    lines += [_prose(cls), ""]
    lines += _facts(cls, chosen)
    lines += [
        "",
        f"How the protocols differ ({chosen.name} is marked *):",
        *_differences(cls, chosen),
    ]
    if chosen.remarks:
        lines += ["", "What its source leaves open:", *(f"- {r}" for r in chosen.remarks)]
    return "\n".join(lines)


def explain_scores(run: Path, metric: str = "", protocol: str = "") -> str:
    """The scores of a run and what each rests on: counts, interval, extractor or parser, remarks,
    where its images lie; or why there is none.

    Args:
        run: its folder.
        metric: one of the run's, with or without ``@PARSER``; "" takes all.
        protocol: name or id of one of the run's; "" takes all.

    Raises:
        UserError: no run or no scores there; the run has no such metric or protocol.
    """
    store = RunStore(run)
    scores, facts = store.scores()
    cells = {cell.key: cell for cell in store.cells()}
    known = {name for s in scores for name in (s.metric, s.metric.split("@")[0])}
    if metric and metric not in known:
        raise UserError(f"{run} has no score called '{metric}'", did_you_mean(metric, known))
    names = {name for s in scores for name in (s.protocol, s.protocol.split("@")[0])}
    if protocol and protocol not in names:
        raise UserError(f"{run} has no scores under '{protocol}'", did_you_mean(protocol, names))
    lines: list[str] = []
    for s in scores:
        if metric not in ("", s.metric, s.metric.split("@")[0]):
            continue
        if protocol not in ("", s.protocol, s.protocol.split("@")[0]):
            continue
        lines += [*_score_lines(s, facts.get(s.metric, MetricFacts()), cells.get(s.cell)), ""]
    return "\n".join(lines).rstrip()


def _score_lines(score: ScoreRecord, facts: MetricFacts, cell: CellView | None) -> list[str]:
    """One score: its value, then what it rests on, a line each."""
    head = f"{facts.title or score.metric} of {score.title}, {score.task} on {score.dataset}"
    head += f" ({score.protocol})"
    if score.value is None:
        return [f"{head}: none", f"  why         {score.reason or 'no reason was recorded'}"]

    def shown(value: float) -> str:
        return f"{value * facts.scale:.{facts.digits}f}"

    unit = f" {facts.unit}" if facts.unit else ""
    about = {"images": f"{score.n:,}" + (f" against {score.n_real:,}" if score.n_real else "")}
    if score.se is not None:
        about["error"] = f"{shown(score.se)} (one standard error)"
    if score.ci is not None:
        about["interval"] = f"{shown(score.ci[0])} to {shown(score.ci[1])} (95 %)"
    about |= {k: str(score.extra[k]) for k in (*BASIS, "real_split") if score.extra.get(k)}
    if "parser" in about:
        about.setdefault("label_map", "the target's own")
    if score.marks:
        about["remarks"] = "; ".join(score.marks)
    if cell is not None:
        entry = cell.entry
        source = entry.method.weights.source or "none"
        digest = entry.method.weights.sha256 or ""
        hashed = f", sha256 {digest[:12]}" if digest and digest != source else ""
        about["weights"] = f"{source}{hashed}"
        about["reads"] = entry.method.reads
        about["data"] = f"{entry.dataset.name}, {entry.dataset.split}, {entry.dataset.n} items"
        about["made with"] = ", ".join(f"{k} {v}" for k, v in entry.generation.items())
        about["images in"] = str(cell.folder / "images")
        for what, names in (("missing", entry.missing), ("no item's", entry.unused)):
            about[what] = f"{len(names):,}: {some(names)}" if names else ""
    width = max(len(name) for name in about) + 2
    lines = [
        f"  {name.replace('_', ' '):<{width}}{value}" for name, value in about.items() if value
    ]
    return [f"{head}: {shown(score.value)}{unit}", *lines]


def _facts(cls: Any, protocol: Protocol) -> list[str]:
    unit = f" {cls.unit}" if cls.unit else ""
    low, high = ("open" if bound is None else f"{bound:g}" for bound in cls.bounds)
    better = "higher" if cls.direction == "up" else "lower"
    split = protocol.real.get(cls.name, cls.real)
    both = " for both sets" if split else ""
    facts = [
        ("better", f"{better}; bounds {low} to {high}{unit}; {cls.digits} decimals in tables"),
        ("tasks", ", ".join(cls.tasks)),
        ("real set", f"photographs of the {split} split" if split else "none"),
        ("n", f"every image of the split that was made; captions state it{both}"),
        ("pixels", f"8-bit once, by {protocol.quantise}; stored as PNG"),
        ("source", cls.source),
        ("computed in", _place(cls)),
    ]
    maker = metrics.maker_of(cls)
    if maker is not None:
        resize = maker.resize
        if not isinstance(resize, str):
            resize = resize[getattr(protocol, maker.resize_field)]
        facts += [
            ("rows", f"{maker.name}: {_first_paragraph(maker)}"),
            ("rows made in", _place(maker)),
            ("resize", resize),
            ("label map", maker.label_map),
            ("weights", _weights(maker.weights) or _bundled(maker.bundled)),
        ]
        facts += _parsers(protocol) if maker.uses_parser else []
    width = max(len(name) for name, _ in facts)
    return [f"{name:<{width}}  {value}" for name, value in facts if value]


def _prose(cls: Any) -> str:
    """A docstring without its sections for programmers (arguments, examples) and its marks of
    code."""
    kept: list[str] = []
    left_out = ""  # "section" lasts to the next line at the margin, "code" to the next blank one
    for text in (inspect.getdoc(cls) or "").splitlines():
        if text.strip() in _SECTIONS:
            left_out = "section"
        elif text.startswith(">>>"):
            left_out = "code"
        elif (left_out == "code" and not text) or (left_out == "section" and text[:1].strip()):
            left_out = ""
        shown = "" if left_out else text.replace("``", "")
        if shown or kept[-1:] != [""]:
            kept.append(shown)
    return "\n".join(kept).strip()


def _first_paragraph(cls: Any) -> str:
    first = (inspect.getdoc(cls) or "").split("\n\n")[0]
    return " ".join(first.replace("``", "").split())


def _parsers(protocol: Protocol) -> list[tuple[str, str]]:
    """Every parser of the protocol: label space, size, weights."""
    from sisbench import segmenters

    found = []
    for space, name in protocol.parsers.items():
        cls = segmenters.registry.get(name)
        size = inspect.signature(cls).parameters.get("input_size")
        shown = f" at {size.default} x {size.default}" if size else " at the images' size"
        found.append(("parser", f"{space}: {name}{shown}; {_weights(cls.weights)}"))
    return found


def _place(cls: Any) -> str:
    """module file:line, as seen from the root of the project."""
    file = Path(inspect.getsourcefile(cls) or "")
    line = inspect.getsourcelines(cls)[1]
    return f"{file.parent.name}/{file.name}:{line} ({cls.__name__})"


def _weights(name: str) -> str:
    """A registered file with hash and state; "" where there is none."""
    from sisbench.core import weights

    entry = weights.load_registry().get(name)
    if entry is None:
        return name
    digest = entry.sha256 or (entry.sha256_prefix and f"{entry.sha256_prefix}...")
    try:
        weights.path(name)
        state = "here"
    except Unavailable:
        state = f"not here: {weights.remedy(entry)}"
    return f"{entry.file}, sha256 {digest or 'not stated'}, {state}"


def _bundled(file: str) -> str:
    return f"{file}, comes with sisbench; scores state its sha256" if file else ""


def _differences(cls: Any, chosen: Protocol) -> list[str]:
    """One line a field: the value of every preset, only for fields that touch this metric."""
    fields = (*cls.protocol_fields, *_ALWAYS)
    names = list(presets())
    rows = [["", *(f"{n}*" if n == chosen.name else n for n in names)]]
    for field in fields:
        rows.append([field, *(_shown(cls, field, presets()[n]) for n in names)])
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return [
        "  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _shown(cls: Any, field: str, protocol: Protocol) -> str:
    if field == "real":
        return protocol.real.get(cls.name, cls.real) or "none"
    value = getattr(protocol, field)
    return ",".join(sorted(set(value.values()))) if isinstance(value, dict) else str(value)
