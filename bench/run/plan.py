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
from sisbench.config import (
    IMAGES,
    DatasetConfig,
    EditorConfig,
    MethodConfig,
    RunConfig,
    TaskConfig,
)
from sisbench.core.adapter_file import as_user_error, class_digest, described
from sisbench.core.errors import Unavailable, UserError, did_you_mean
from sisbench.core.tasks import TASKS
from sisbench.data import Dataset, open_dataset
from sisbench.protocol import Protocol, get_protocol
from sisbench.run.elsewhere import Found, Images, conflict
from sisbench.run.items import Item, generation_of, plan_items

BUNDLED = "bundled:"
KEY_SCHEMA = 2
"""Enters every content key: raised when the same plan makes other images than before."""

_ITEMS = "\0items"
"""Stands in a content key's text for the items, which many cells share."""


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
                        why, text = found.reason, _items_text(found.items)
                    key = _key(method, identity, content, task, about, text, edited)
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
        known[where] = items, _items_text(items)
    return known[where]


def restricted(plan: Plan, only: Sequence[str]) -> Plan:
    """The plan with work for some of its cells alone; the others stay in it, as not made yet.

    Args:
        only: ``method=SEAN`` (label or name), ``task=transfer`` (name, or with its classes),
            ``dataset=toyfaces`` (label or name). Several of one kind add up, several kinds meet.

    Raises:
        UserError: an unknown kind or value; the nearest one is named.
    """
    chosen: dict[str, set[str]] = {}
    for text in only:
        kind, equals, value = (part.strip() for part in text.partition("="))
        names = [_names(cell).get(kind, ()) for cell in plan.cells]
        if not equals or kind not in _KINDS:
            raise UserError(
                f"--only {text}: expected {', '.join(f'{k}=NAME' for k in _KINDS)}",
                did_you_mean(kind, _KINDS),
            )
        known = {name for own in names for name in own}
        if value not in known:
            raise UserError(f"--only {text}: no {kind} of this run", did_you_mean(value, known))
        chosen.setdefault(kind, set()).add(value)
    if not chosen:
        return plan
    keys = frozenset(
        cell.key
        for cell in plan.cells
        if all(wanted & set(_names(cell)[kind]) for kind, wanted in chosen.items())
    )
    return replace(plan, only=keys)


_KINDS = ("method", "task", "dataset")


def _names(cell: Cell) -> dict[str, tuple[str, ...]]:
    """What a cell is called by, for each kind."""
    return {
        "method": (cell.method.shown, cell.method.name),
        "task": (cell.task.slug, cell.task.name),
        "dataset": (cell.dataset.shown, cell.dataset.name),
    }


def open_datasets(config: RunConfig) -> tuple[dict[str, Dataset], dict[str, str], dict[str, str]]:
    """(data sets, their fingerprints, why others cannot be opened), by label.

    Raises:
        UserError: none can be opened.
    """
    found: dict[str, Dataset] = {}
    fingerprints: dict[str, str] = {}
    errors: dict[str, UserError] = {}
    for d in config.datasets:
        try:
            dataset = open_dataset(d.name, **d.arguments)
            fingerprints[d.shown] = dataset.fingerprint()
            found[d.shown] = dataset
        except Exception as error:  # a data set is anybody's: it costs itself its cells
            errors[d.shown] = as_user_error(error)
    if len(errors) == 1 and not found:
        raise next(iter(errors.values()))
    closed = {label: f"data set {label}: {described(error)}" for label, error in errors.items()}
    if not found:
        raise UserError("no data set can be opened:\n  " + "\n  ".join(closed.values()))
    return found, fingerprints, closed


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


def method_class(name: str) -> Any:
    """The class of a method; of a layout editor, which has tasks of its own; of images made
    elsewhere.

    Raises:
        UserError: none is called so.
    """
    if name == IMAGES:
        return Images
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
    if editor is not None and method.name == IMAGES:
        return "images made elsewhere are not combined with a layout editor"
    if editor is not None and not TASKS[task.name].editable:
        return f"'{task.name}' is not combined with a layout editor"
    cls = method_class(method.name)
    try:
        return "" if task.name in cls.can else why_not(cls(**method.options), task.name) or ""
    except Exception as error:  # as of its construction
        return described(error)


@dataclass(frozen=True)
class Weights:
    """Where the weights of a method are, their content hash, and what is wrong with them."""

    path: str | None = None
    identity: str = "none"
    fault: str = ""


def find_weights(method: MethodConfig | EditorConfig) -> Weights:
    """The weights of a configured method, as far as they are known without its networks: whether
    they are there, what kind of file they are, which method and options a header names.

    Raises:
        UserError: an unknown method or option.
    """
    cls = method_class(method.name)
    try:
        loadable = cls(**method.options)
    except UserError:
        raise
    except Exception as error:  # a method is anybody's: it costs itself its cells
        return Weights(None, "none", described(error))
    given = method.weights
    if given is None or given.startswith("seeded:"):
        return Weights(given, given or "none")
    try:
        path = resolve_weights(given)
    except Unavailable as error:
        return Weights(None, "missing", described(error))
    try:
        check_kind(loadable, path)
        return Weights(str(path), weights_hash(path, cls))
    except (UserError, OSError) as error:
        return Weights(None, "missing", described(error))


def check_kind(loadable: Any, path: Path) -> None:
    """Raises UserError where ``path`` is known to hold no weights of a method: another kind of
    file, another method or other options in its header, a folder without weights. What a method
    with a ``load`` of its own reads is not known."""
    from sisbench.core.file_kinds import refuse_foreign
    from sisbench.core.state_dict import read_metadata
    from sisbench.methods.loadable import WEIGHT_SUFFIXES, Loadable, adopt_options

    if isinstance(loadable, Loadable) and loadable.check_weights(path):
        return
    if getattr(type(loadable), "load", None) is not Loadable.load:
        return
    if path.is_dir():
        if not loadable.files_in(path):
            raise UserError(
                f"{path} holds no weights file", f"looked for {', '.join(WEIGHT_SUFFIXES)}"
            )
        return
    refuse_foreign(path)
    about = read_metadata(path)
    if about:
        adopt_options(loadable, about, path)


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
    tried = "" if path.is_absolute() else f"looked for {path.absolute()}; "
    raise Unavailable(
        f"no weights at {name}", f"{tried}give a path or a name of: sisbench weights list"
    )


def weights_hash(path: Path, cls: Any = None) -> str:
    """sha256 of a file, or over the files of a folder that images of a method's class depend on."""
    from sisbench.core.state_dict import sha256_of
    from sisbench.methods.loadable import Loadable

    if path.is_file():
        return sha256_of(path)
    files = getattr(cls, "files_in", Loadable.files_in)(path)
    joined = "".join(f"{name}:{sha256_of(files[name])};" for name in sorted(files))
    return hashlib.sha256(joined.encode()).hexdigest()


def by_content(cls: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` with the hash of each file or folder that one of them names, in place of its
    path."""

    def content(value: Any) -> Any:
        path = Path(value)
        try:
            return weights_hash(path, cls) if path.exists() else value
        except UserError:  # a folder of another kind: what loads it says so
            return value

    return {k: content(v) if k in cls.file_options and v else v for k, v in options.items()}


def _of_pixels(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of images made elsewhere that change pixels: where the files lie, and by which
    names, does not."""
    return {k: v for k, v in options.items() if k == "resize"}


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
    own = method.options
    options = _of_pixels(own) if source == IMAGES else by_content(cls, own)
    about: dict[str, Any] = {
        "schema": KEY_SCHEMA,
        "method": source,
        "options": options,
        "weights": identity,
        "data": fingerprint,
        "task": task.model_dump(
            mode="json", exclude=set() if TASKS[task.name].variants == "alphas" else {"alpha"}
        ),
        "items": _ITEMS,
        "protocol": dict(generation),
    } | ({"editor": dict(editor)} if editor else {})
    if method.resize is not None:
        about["resize"] = method.resize
    if getattr(cls, "stored_labels", False):
        about["labels"] = "stored"
    text = json.dumps(about, sort_keys=True, default=str).replace(json.dumps(_ITEMS), items, 1)
    return hashlib.sha256(text.encode()).hexdigest()


def _items_text(items: Sequence[Item]) -> str:
    """The items as they enter a content key."""
    return json.dumps([[i.id, i.target, i.reference, list(i.classes), i.alpha] for i in items])
