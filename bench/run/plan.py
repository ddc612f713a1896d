"""The plan of a run: cells (method x data set x task x protocol), each under its content key."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sisbench import methods
from sisbench.config import (
    IMAGES,
    DatasetConfig,
    EditorConfig,
    MethodConfig,
    RunConfig,
    TaskConfig,
)
from sisbench.core.adapter_file import described
from sisbench.core.errors import UserError
from sisbench.core.tasks import TASKS
from sisbench.data import Dataset
from sisbench.protocol import Protocol, get_protocol
from sisbench.run.datasets import open_datasets
from sisbench.run.elsewhere import Found, Images, conflict
from sisbench.run.items import Item, generation_of, plan_items
from sisbench.run.keys import cell_key, items_text
from sisbench.run.method_entry import Weights, find_weights, is_editor, method_class


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
        reason: why the cell cannot be filled; "" when it can. failed: that something which was
            asked for is missing or broken, as against a task that the method does not do.
        editor_weights: where the layout editor's weights are, if the run has one.
        found: the files of images made elsewhere; None for a method, which makes its own.
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
    failed: bool = False
    found: Found | None = field(default=None, repr=False)

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
        datasets: opened, by label; ``fingerprints`` holds their fingerprints, and ``closed`` why
            the others cannot be opened.
        cells: in the order in which they are worked off (methods outermost: each is loaded once).
        only: keys of the cells that are worked on; None takes all.
    """

    config: RunConfig
    protocols: Sequence[Protocol]
    datasets: Mapping[str, Dataset]
    fingerprints: Mapping[str, str]
    cells: Sequence[Cell]
    closed: Mapping[str, str] = field(default_factory=dict)
    only: frozenset[str] | None = None

    def wanted(self, cell: Cell) -> bool:
        """Whether a cell is worked on."""
        return self.only is None or cell.key in self.only


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
    """Open the data sets, find the weights, key every cell. No network is built: what is known to
    be missing or of the wrong kind is the reason of its cells.

    Raises:
        UserError: no data set can be opened; an unknown method, option or class.
    """
    protocols = run_protocols(config)
    datasets, fingerprints, closed = open_datasets(config)
    cells: list[Cell] = []
    planned: dict[tuple[str, str, str], tuple[tuple[Item, ...], str]] = {}
    editor = config.layout_editor
    edited: dict[str, Any] = {}
    editor_files = Weights()
    if editor is not None:
        _check_editor(editor)
        editor_files = find_weights(editor)
        edited = editor.model_dump() | {"sha256": editor_files.identity}
    for method in config.methods:
        files = find_weights(method)
        fault = files.fault or (editor_files.fault and f"layout editor: {editor_files.fault}")
        images = None
        if method.name == IMAGES:
            images = Images(**method.options)
        for d in config.datasets:
            for task in config.tasks:
                data = datasets.get(d.shown)
                lacking = closed.get(d.shown) or fault
                reason = lacking or _class_reason(method, task, editor)
                here: dict[str, Cell] = {}
                content = fingerprints.get(d.shown, f"closed: {d.model_dump_json()}")
                own = [_planned(planned, d.shown, task, p, data, editor) for p in protocols]
                if images is not None:
                    items_of = [items for items, _ in own]
                    reason = reason or conflict(items_of, images.references is not None)
                for protocol, (items, text) in zip(protocols, own, strict=True):
                    about = generation_of(task, protocol, editor)
                    found, why, identity = None, reason, files.identity
                    if images is not None and data is not None:
                        found = _elsewhere(images, config, d, task, items, about, data, reason)
                        items, about, identity = found.items, dict(found.generation), found.identity
                        why, text = found.reason, items_text(found.items)
                    key = cell_key(method, identity, content, task, about, text, edited)
                    cell = here.get(key) or Cell(
                        method=method,
                        dataset=d,
                        task=task,
                        protocol=protocol,
                        generation=about,
                        key=key,
                        items=items,
                        weights=files.path,
                        identity=identity,
                        reason=why,
                        editor_weights=editor_files.path,
                        failed=bool(lacking) or bool(found and found.reason),
                        found=found,
                    )
                    here[key] = replace(cell, protocols=(*cell.protocols, protocol.id))
                cells.extend(here.values())
    return Plan(config, protocols, datasets, fingerprints, cells, closed)


def _planned(
    known: dict[tuple[str, str, str], tuple[tuple[Item, ...], str]],
    label: str,
    task: TaskConfig,
    protocol: Protocol,
    data: Dataset | None,
    editor: EditorConfig | None,
) -> tuple[tuple[Item, ...], str]:
    """(items, their text in the content key) of a task: of every method the same, and of many items
    large, so they are kept in ``known``."""
    where = label, task.slug, protocol.id
    if where not in known:
        items: tuple[Item, ...] = ()
        if data is not None:
            items = tuple(plan_items(task, protocol, data.ids, data.space, editor))
        known[where] = items, items_text(items)
    return known[where]


def _elsewhere(
    images: Images,
    config: RunConfig,
    dataset: DatasetConfig,
    task: TaskConfig,
    items: Sequence[Item],
    generation: Mapping[str, Any],
    data: Dataset,
    reason: str,
) -> Found:
    """The images made elsewhere of a cell, or what is known without looking for them."""
    if reason:
        return Found(tuple(items), generation, reason=reason)
    alone = (len(config.datasets) == 1, len(config.tasks) == 1)
    return images.find(task, dataset.shown, alone, items, generation, data.ids)


def same_rendering(cell: Cell, cells: Sequence[Cell]) -> list[Cell]:
    """The other cells whose images differ from the cell's in their 8-bit rounding alone."""

    def rendered(c: Cell) -> tuple[Any, ...]:
        alike = {k: v for k, v in c.generation.items() if k != "quantise"}
        return c.method.shown, c.dataset.shown, c.task.slug, alike, c.items

    return [c for c in cells if c.key != cell.key and rendered(c) == rendered(cell)]


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
    if editor is not None and method.name == IMAGES:
        return "images made elsewhere are not combined with a layout editor"
    if editor is not None and not TASKS[task.name].editable:
        return f"'{task.name}' is not combined with a layout editor"
    cls = method_class(method.name)
    try:
        return "" if task.name in cls.can else why_not(cls(**method.options), task.name) or ""
    except Exception as error:  # as of its construction
        return described(error)
