"""What is known and what is here: methods, data sets, weights; as tables or as JSON."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from sisbench.commands.console import line, marked, note, out, print_json
from sisbench.core.adapter_file import as_user_error
from sisbench.core.errors import UserError
from sisbench.core.progress import Progress


def methods(name: str, as_json: bool) -> None:
    """The methods that are known; with a name, all about one.

    Raises:
        UserError: an unknown name; the nearest one is named.
    """
    from sisbench import methods as registry
    from sisbench.run.elsewhere import Images

    if name:
        found = _method(name)
        print_json(found) if as_json else _print_method(found)
        return
    rows, broken = [], {}
    for known in (*registry.registry.names(), *registry.editors.names()):
        try:
            rows.append(_method(known))
        except Exception as error:  # a package's method: it costs itself its line
            broken[known] = str(as_user_error(error))
    if as_json:
        print_json(rows + [{"name": known, "error": why} for known, why in broken.items()])
        return
    table = Table("name", "title", "size", "can", "rows of the papers' tables", "paper")
    for row in rows:
        able = [*row["tasks"]]
        if row["edits"]:
            able.append("layout_editor: " + ", ".join(row["edits"]))
        size = "x".join(map(str, row["size"]))
        fills = "; ".join(dict.fromkeys(r["cited"] for r in row["rows"])) or "none"
        cells = (row["name"], row["title"], size, ", ".join(able), fills, escape(row["paper"]))
        table.add_row(*cells)
    tasks = ", ".join(sorted(Images.can))
    table.add_row(Images.name, Images.title, "any", tasks, "any", "docs/elsewhere.md")
    out.print(table)
    for why in broken.values():
        marked("bad", why)
    line("sisbench methods NAME lists its options, tasks and weights")


def _method(name: str) -> dict[str, Any]:
    """A method as data: tasks, options with defaults, files, what the registry knows of weights."""
    from sisbench import methods as registry
    from sisbench.core import weights
    from sisbench.core.tasks import TASKS
    from sisbench.methods.editor import no_task
    from sisbench.run.method_entry import is_editor, method_class

    cls, editor = method_class(name), is_editor(name)
    if editor:
        tasks = [t.name for t in TASKS.values() if t.by == "editor" and not no_task(cls, t.name)]
    else:
        tasks = sorted(cls().can)
    own = cls.name.replace("-", "_")
    known = [row for row in weights.status() if row["kind"] == "method"]
    names = registry.registry.names() + registry.editors.names()
    longer = tuple(n.replace("-", "_") for n in names if n != cls.name)
    files = [r for r in known if r["name"].startswith(own) and r["name"] not in longer]
    return {
        "name": cls.name or name,
        "title": cls.title,
        "paper": cls.paper,
        "size": list(cls.size),
        "tasks": tasks,
        "edits": sorted(cls.can) if editor else [],
        "options": _options(cls),
        "files": {module: list(patterns) for module, patterns in cls.files.items()},
        "rows": _rows(cls.name, names),
        "weights": [{k: r[k] for k in ("name", "purpose", "state", "remedy")} for r in files],
        "about": inspect.getdoc(cls) or "",
    }


def _rows(name: str, known: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of the papers' tables that a method fills, and the options that each takes."""
    from sisbench.report.papers import table_rows

    return [
        {
            "table": row.spec,
            "cited": row.cited,
            "row": row.printed,
            "options": dict(row.options),
            "differs": row.differs,
        }
        for row in table_rows(known)
        if row.method == name
    ]


def _options(cls: Any) -> dict[str, dict[str, str]]:
    """Option -> its type and official default, as text."""
    found = {}
    for field in dataclasses.fields(cls.Options):
        default: Any = field.default
        if default is dataclasses.MISSING:
            factory: Any = field.default_factory
            default = "required" if factory is dataclasses.MISSING else factory()
        found[field.name] = {"type": str(field.type), "default": str(default)}
    return found


def _print_method(found: Mapping[str, Any]) -> None:
    line(f"{found['title']} ({found['name']}): {found['paper']}")
    line(found["about"].split("\n\n")[0].replace("``", "") + "\n")
    line(f"size   {' x '.join(map(str, found['size']))} in its official configuration")
    line(f"tasks  {', '.join(found['tasks']) or 'none'}")
    if found["edits"]:
        line(f"edits  {', '.join(found['edits'])} (as layout_editor)")
    for row in found["rows"]:
        line(f"fills  {row['cited']}: {row['row']}{_with(row)}")
    for module, patterns in found["files"].items():
        line(f"files  {module}: {', '.join(patterns)}")
    for row in found["weights"]:
        remedy = "" if row["state"] == "here" else f": {row['remedy']}"
        line(f"weights  {row['name']} ({row['purpose']}), {row['state']}{remedy}")
    if not found["options"]:
        line("options  none")
        return
    table = Table("option", "type", "default")
    for name, option in found["options"].items():
        table.add_row(name, escape(option["type"]), escape(option["default"]))
    out.print(table)


def _with(row: Mapping[str, Any]) -> str:
    """What a row takes beside the official options."""
    said = [
        f"{k}: {str(v).lower() if isinstance(v, bool) else v}" for k, v in row["options"].items()
    ]
    own = f", options {{{', '.join(said)}}}" if said else ""
    return own + (f"; the paper's: {row['differs']}, which no option has" if row["differs"] else "")


def datasets(name: str, root: str, split: str, as_json: bool) -> int:
    """The data sets that are known; with a name, or a configuration, every item of them is decoded.
    Returns the exit code: 1 where one is bad.

    Raises:
        UserError: an unknown name; a data set that cannot be opened.
    """
    from sisbench import data

    if not name:
        classes, broken = data.registry.all()
        rows = {
            known: next(iter((cls.__doc__ or "").strip().splitlines()), "")
            for known, cls in classes.items()
        }
        rows |= {known: error.message for known, error in broken.items()}
        if as_json:
            print_json([{"name": k, "what": v} for k, v in rows.items()])
            return 0
        table = Table("name", "what")
        for known, summary in rows.items():
            table.add_row(known, escape(summary))
        out.print(table)
        return 0
    found = []
    for label, arguments in _entries(name, root, split):
        found.append(_checked(label, arguments, quiet=as_json))
        if not as_json:
            _print_checked(found[-1])
    if as_json:
        print_json(found)
    return 1 if any(row["error"] or row["bad"] for row in found) else 0


def _entries(name: str, root: str, split: str) -> list[tuple[str, dict[str, Any]]]:
    """(label, arguments of ``open_dataset``) of a data set, or of all that a configuration has."""
    if Path(name).suffix in (".yaml", ".yml"):
        from sisbench.config import load_config

        entries = load_config(Path(name)).datasets
        return [(d.shown, {"name": d.name, **d.arguments}) for d in entries]
    return [(name, {"name": name, **{k: v for k, v in (("root", root), ("split", split)) if v}})]


def _checked(label: str, arguments: Mapping[str, Any], quiet: bool) -> dict[str, Any]:
    """Counts, size and faults of a data set. One that cannot be opened is an error where it stands
    alone, and a row among others."""
    from sisbench.data import open_dataset
    from sisbench.data.check import check_items

    try:
        dataset = open_dataset(**arguments)
    except UserError as error:
        if label == arguments["name"]:
            raise
        return {"label": label, "error": str(error), "bad": [], "remarks": []}
    faults = check_items(dataset, Progress(quiet=quiet))
    return {
        "label": label,
        "name": arguments["name"],
        "split": dataset.split,
        "items": len(dataset),
        "size": list(dataset.size),
        "space": dataset.space.name,
        "classes": len(dataset.space),
        "remarks": dataset.remarks(),
        "bad": faults,
        "error": "",
    }


def _print_checked(row: Mapping[str, Any]) -> None:
    if row["error"]:
        marked("bad", f"{row['label']}: {row['error']}")
        return
    for fault in row["bad"]:
        marked("bad", fault)
    for remark in row["remarks"]:
        note(f"{row['label']}: {remark}")
    size = " x ".join(map(str, row["size"]))
    good = row["items"] - len(row["bad"])
    verdict = "every item is good" if not row["bad"] else f"{len(row['bad']):,} items are bad"
    text = f"{row['label']}, split {row['split']}: {good:,} of {row['items']:,} items decode"
    text += f" at {size}, label space {row['space']} with {row['classes']} classes: {verdict}"
    marked("bad" if row["bad"] else "ok", text)


def weights(as_json: bool) -> None:
    """Every known file: what for, licence, whether it is here, how to get it."""
    from sisbench.core import weights as known

    if as_json:
        print_json(known.status())
        return
    table = Table("name", "for", "state", "licence", "how to get it")
    for row in known.status():
        how = "" if row["here"] else row["remedy"]
        columns = (row["name"], row["purpose"], row["state"], row["licence"], how)
        table.add_row(*(escape(column) for column in columns))
    out.print(table)
