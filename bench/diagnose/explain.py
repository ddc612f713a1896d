"""``sisbench explain``: what exactly a number is, under a protocol, and how the papers differ."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from sisbench import metrics
from sisbench.core.errors import Unavailable
from sisbench.protocol import Protocol, get_protocol, presets

_ALWAYS = ("quantise", "noise", "pairs", "absent", "shape_swap", "seed")


def explain(metric: str, protocol: str) -> str:
    """Formula, rows, real set, conventions, weights, file and line of a metric, and every preset's
    choices beside each other. An empty ``metric`` lists them all.

    Raises:
        UserError: unknown metric or protocol.
    """
    chosen = get_protocol(protocol)
    if not metric:
        rows = [(n, metrics.registry.get(n).title) for n in metrics.registry.names()]
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
            ("weights", _weights(maker.weights)),
        ]
        facts += _parsers(protocol) if maker.uses_parser else []
    width = max(len(name) for name, _ in facts)
    return [f"{name:<{width}}  {value}" for name, value in facts if value]


def _prose(cls: Any) -> str:
    """A docstring without its arguments and examples, which are code."""
    kept = [
        paragraph
        for paragraph in (inspect.getdoc(cls) or "").split("\n\n")
        if not paragraph.startswith(("Args:", ">>>"))
    ]
    return "\n\n".join(kept)


def _first_paragraph(cls: Any) -> str:
    return " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split())


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
