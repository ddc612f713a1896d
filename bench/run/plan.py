"""The plan of a run: cells (method x data set x task x protocol), each under its content key."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sisbench import methods
from sisbench.config import DatasetConfig, EditorConfig, MethodConfig, RunConfig, TaskConfig
from sisbench.core.adapter_file import class_digest
from sisbench.core.errors import Unavailable, UserError
from sisbench.core.tasks import TASKS
from sisbench.data import Dataset, open_dataset
from sisbench.protocol import Protocol, get_protocol
from sisbench.run.items import Item, generation_of, plan_items

BUNDLED = "bundled:"
KEY_SCHEMA = 2
"""Enters every content key: raised when the same plan makes other images than before."""

_ITEMS = "\0items"
"""Stands in a content key's text for the items, which many cells share."""
_WEIGHT_SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors")


@dataclass(frozen=True)
class Cell:
    """One method on one data set at one task, for all protocols that make the same images of it.

    Attributes:
        protocol: the first of them; protocols: the ids of all.
        generation: what the images depend on in it (``sisbench.run.items.generation_of``).
        key: hash of all that its images depend on.
        items: the images, in order; () when ``reason`` says why there are none.
        weights: where the method's weights are (a path, ``seeded:N``, or None).
        identity: content hash of the weights.
        reason: why the cell cannot be filled; "" when it can.
        editor_weights: where the layout editor's weights are, if the run has one.
    """

    method: MethodConfig
    dataset: DatasetConfig
    task: TaskConfig
    protocol: Protocol
    generation: Mapping[str, Any]
    key: str
    items: tuple[Item, ...] = field(repr=False)
    weights: str | None
    identity: str
    reason: str = ""
    editor_weights: str | None = None
    protocols: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """Folder within the run: readable, and unique by its key."""
        label = "--".join((self.method.shown, self.dataset.shown, self.task.slug))
        return f"cells/{re.sub(r'[^A-Za-z0-9._+-]+', '-', label)[:80]}-{self.key[:12]}"


@dataclass(frozen=True)
class Plan:
    """A whole run.

    Attributes:
        protocols: one or several.
        datasets: opened, by label; ``fingerprints`` holds their fingerprints.
        cells: in the order in which they are worked off (methods outermost: each is loaded once).
    """

    config: RunConfig
    protocols: Sequence[Protocol]
    datasets: Mapping[str, Dataset]
    fingerprints: Mapping[str, str]
    cells: Sequence[Cell]


def run_protocols(config: RunConfig) -> tuple[Protocol, ...]:
    """The protocols that a configuration names, with their changes.

    Raises:
        UserError: unknown preset or field; none, or one of them twice.
    """
    named = config.protocol if isinstance(config.protocol, tuple) else (config.protocol,)
    found = tuple(_protocol(one) for one in named)
    if not found or len({p.id for p in found}) < len(found):
        shown = ", ".join(p.name for p in found) or "none"
        raise UserError(f"'protocol' lists {shown}", "name one, or several different ones")
    return found


def _protocol(named: str | Mapping[str, Any]) -> Protocol:
    if isinstance(named, str):
        return get_protocol(named)
    changes = dict(named)
    base = changes.pop("base", None)
    if not isinstance(base, str):
        raise UserError("'protocol' with fields needs 'base': the preset that it changes")
    return get_protocol(base, changes)


def make_plan(config: RunConfig) -> Plan:
    """Open the data sets, find the weights, key every cell.

    Raises:
        UserError: a data set that cannot be opened, an unknown method, option or class.
    """
    protocols = run_protocols(config)
    datasets = {d.shown: open_dataset(d.name, **d.arguments) for d in config.datasets}
    fingerprints = {label: dataset.fingerprint() for label, dataset in datasets.items()}
    cells: list[Cell] = []
    planned: dict[tuple[str, str, str], tuple[tuple[Item, ...], str]] = {}
    editor = config.layout_editor
    edit_weights, edit_identity, no_editor = None, "", ""
    if editor is not None:
        _check_editor(editor)
        edit_weights, edit_identity, no_editor = _find_weights(editor)
    for method in config.methods:
        method_class(method.name)(**method.options)  # an unknown option ends the run here
        weights, identity, missing = _find_weights(method)
        for d in config.datasets:
            for task in config.tasks:
                data = datasets[d.shown]
                reason = missing or no_editor or _class_reason(method, task, editor)
                edited = {} if editor is None else editor.model_dump() | {"sha256": edit_identity}
                here: dict[str, Cell] = {}
                for protocol in protocols:
                    where = d.shown, task.slug, protocol.id
                    if where not in planned:  # of every method the same, and of many items large
                        found = tuple(plan_items(task, protocol, data.ids, data.space, editor))
                        planned[where] = found, _items_text(found)
                    items, text = planned[where]
                    about = generation_of(task, protocol, editor)
                    key = _key(method, identity, fingerprints[d.shown], task, about, text, edited)
                    cell = here.get(key) or Cell(
                        method=method,
                        dataset=d,
                        task=task,
                        protocol=protocol,
                        generation=about,
                        key=key,
                        items=items,
                        weights=weights,
                        identity=identity,
                        reason=reason,
                        editor_weights=edit_weights,
                    )
                    here[key] = replace(cell, protocols=(*cell.protocols, protocol.id))
                cells.extend(here.values())
    return Plan(config, protocols, datasets, fingerprints, cells)


def same_rendering(cell: Cell, cells: Sequence[Cell]) -> list[Cell]:
    """The other cells whose images differ from the cell's in their 8-bit rounding alone."""

    def rendered(c: Cell) -> tuple[Any, ...]:
        alike = {k: v for k, v in c.generation.items() if k != "quantise"}
        return c.method.shown, c.dataset.shown, c.task.slug, alike, c.items

    return [c for c in cells if c.key != cell.key and rendered(c) == rendered(cell)]


def method_class(name: str) -> Any:
    """The class of a method, or of a layout editor, which has tasks of its own.

    Raises:
        UserError: neither is called so.
    """
    known = methods.editors if name in methods.editors.names() else methods.registry
    return known.get(name)


def is_editor(name: str) -> bool:
    """Whether a configuration's method is a layout editor."""
    return name in methods.editors.names()


def _check_editor(config: EditorConfig) -> None:
    """Raises UserError where the layout editor of a run is unknown, or unable to do its edit."""
    from sisbench.methods.editor import no_edit

    cls = methods.editors.get(config.name)
    cls(**config.options)
    reason = no_edit(cls, config.edit)
    if reason:
        raise UserError(f"layout editor: {config.name} {reason}", "choose another 'edit'")


def _class_reason(method: MethodConfig, task: TaskConfig, editor: EditorConfig | None) -> str:
    """Why the method's class is unable to do the task, "" if it may be able to."""
    from sisbench.methods.base import why_not
    from sisbench.methods.editor import no_task

    by_editor = TASKS[task.name].by == "editor"
    if is_editor(method.name) != by_editor:
        if by_editor:
            return "no layout editor: it draws photographs, not label maps"
        own = " and ".join(f"'{t.name}'" for t in TASKS.values() if t.by == "editor")
        return f"a layout editor does {own} alone, not '{task.name}'"
    if by_editor:
        return no_task(methods.editors.get(method.name), task.name) or ""
    if editor is not None and not TASKS[task.name].editable:
        return f"'{task.name}' is not combined with a layout editor"
    cls = methods.registry.get(method.name)
    return "" if task.name in cls.can else why_not(cls(**method.options), task.name) or ""


def _find_weights(method: MethodConfig | EditorConfig) -> tuple[str | None, str, str]:
    """(weights, content hash, why there are none)."""
    if method.weights is None or method.weights.startswith("seeded:"):
        return method.weights, method.weights or "none", ""
    try:
        path = resolve_weights(method.weights)
    except Unavailable as error:
        return None, "missing", str(error.message)
    return str(path), weights_hash(path), ""


def resolve_weights(name: str) -> Path:
    """A path, ``bundled:NAME`` (comes with sisbench), or a name of the weights registry.

    Raises:
        Unavailable: the file is not there.
    """
    if name.startswith(BUNDLED):
        path = (
            Path(__file__).parent.parent / "bundled" / f"{name.removeprefix(BUNDLED)}.safetensors"
        )
        if not path.is_file():
            raise Unavailable(f"no bundled weights '{name}'", f"looked for {path.name}")
        return path
    path = Path(name)
    if path.exists():
        return path
    from sisbench.core import weights

    if name in weights.load_registry():
        return Path(weights.path(name))
    raise Unavailable(f"no weights at {name}", "give a path or a name of: sisbench weights list")


def weights_hash(path: Path) -> str:
    """sha256 of a weights file, or over the weight files of a folder."""
    from sisbench.core.state_dict import sha256_of

    if path.is_file():
        return sha256_of(path)
    files = sorted(p for p in path.iterdir() if p.suffix in _WEIGHT_SUFFIXES)
    joined = "".join(f"{p.name}:{sha256_of(p)};" for p in files)
    return hashlib.sha256(joined.encode()).hexdigest()


def by_content(cls: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` with the sha256 of each file that one of them names, in place of its path."""
    from sisbench.core.state_dict import sha256_of

    return {
        k: sha256_of(Path(v)) if k in cls.file_options and v and Path(v).is_file() else v
        for k, v in options.items()
    }


def _key(
    method: MethodConfig,
    identity: str,
    fingerprint: str,
    task: TaskConfig,
    generation: Mapping[str, Any],
    items: str,
    editor: Mapping[str, Any],
) -> str:
    """Content key: method, options, weights, data, task, what the protocol says of its images,
    schema.

    Args:
        items: as ``_items_text`` gives them.
    """
    source = method.name
    cls = method_class(source)
    digest = class_digest(cls)
    if digest:  # the user's own: what it does is its content, wherever it lies
        source = f"{source.rpartition(':')[2]}:{digest}"
    about: dict[str, Any] = {
        "schema": KEY_SCHEMA,
        "method": source,
        "options": by_content(cls, method.options),
        "weights": identity,
        "data": fingerprint,
        "task": task.model_dump(
            mode="json", exclude=set() if TASKS[task.name].variants == "alphas" else {"alpha"}
        ),
        "items": _ITEMS,
        "protocol": dict(generation),
    } | ({"editor": dict(editor)} if editor else {})
    text = json.dumps(about, sort_keys=True, default=str).replace(json.dumps(_ITEMS), items, 1)
    return hashlib.sha256(text.encode()).hexdigest()


def _items_text(items: Sequence[Item]) -> str:
    """The items as they enter a content key."""
    return json.dumps([[i.id, i.target, i.reference, list(i.classes), i.alpha] for i in items])
