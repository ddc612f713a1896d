"""Images made elsewhere: a folder of them for each task, found by name and keyed by content."""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import field_validator

from sisbench.config import IMAGES, PathText, TaskConfig
from sisbench.core.errors import UserError, did_you_mean
from sisbench.core.file_hash import file_hashes
from sisbench.core.resize import Filter
from sisbench.core.schema import Strict, validated
from sisbench.core.tasks import TASKS, method_tasks
from sisbench.data.elsewhere import some
from sisbench.data.images import IMAGE_SUFFIXES
from sisbench.data.paired import by_stem, listed
from sisbench.run.items import Item

OWN_PAIRS = "own pairs"
"""Mark of a score whose references are those of a list, not the protocol's."""
_FIELDS = ("id", "k", "alpha", "reference")
_NOT_OURS = frozenset({"noise", "quantise", "noise_of", "absent_by"})
"""Fields of a protocol that a folder of images does not depend on."""


class ImagesOptions(Strict):
    """What a configuration says of images made elsewhere.

    Attributes:
        root: folder with one folder a task (``reconstruct``, ``class_transfer-hair``), or with the
            images themselves where the run has one task; with several data sets, one level more:
            ROOT/DATA SET/TASK.
        pattern: name of an item's file without its suffix, for all tasks or by task, with {id},
            {k} (number of the sample, from 0), {alpha}, {reference}; default: the item's id.
        missing: what an item without an image is: an "error", or left out ("skip").
        resize: filter that brings images of another size to the data set's; None refuses them.
        references: text file with ``target reference`` a line, where the pairs are not the
            protocol's.
    """

    root: PathText
    pattern: str | dict[str, str] | None = None
    missing: Literal["error", "skip"] = "error"
    resize: Filter | None = None
    references: PathText | None = None

    @field_validator("pattern")
    @classmethod
    def _known(cls, given: str | dict[str, str] | None) -> str | dict[str, str] | None:
        for task, pattern in given.items() if isinstance(given, dict) else [("", given or "{id}")]:
            if task and task not in TASKS:
                raise ValueError(f"no task is called '{task}'; {did_you_mean(task, TASKS)}")
            _check_pattern(pattern)
        return given


def _check_pattern(pattern: str) -> None:
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(pattern) if name is not None]
    except ValueError as error:
        raise ValueError(f"'{pattern}' is no pattern: {error}") from error
    for name in names:
        if name not in _FIELDS:
            raise ValueError(f"a pattern has no '{{{name}}}'; {did_you_mean(name, _FIELDS)}")
    if "id" not in names:
        raise ValueError(f"the pattern '{pattern}' lacks {{id}}, the id of the target")


@dataclass(frozen=True)
class Found:
    """The images of one task in a folder.

    Attributes:
        items: those that have an image (all, where there are none); files: item id -> its file.
        generation: the fields of the protocol that the claim of such images depends on.
        identity: hash of all files, by item.
        reason: why there are none, or "".
        remarks: what must be said with every score.
        missing: items without an image; unused: files that are no item's.
    """

    items: tuple[Item, ...]
    generation: Mapping[str, Any]
    files: Mapping[str, Path] = field(default_factory=dict)
    identity: str = "none"
    reason: str = ""
    remarks: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()


class Images:
    """Images made elsewhere, in the place of a method; no network is built.

    Args:
        options: as ``ImagesOptions``.

    Raises:
        UserError: unknown or wrong options, no such folder, an unreadable list of references.
    """

    name: ClassVar[str] = IMAGES
    title: ClassVar[str] = "Images made elsewhere"
    paper: ClassVar[str] = ""
    can: ClassVar[frozenset[str]] = frozenset(task.name for task in method_tasks())

    def __init__(self, **options: Any) -> None:
        self.options = validated(ImagesOptions, options, f"method '{IMAGES}'")
        self.root = Path(self.options.root)
        if not self.root.is_dir():
            raise UserError(f"method '{IMAGES}': no folder {self.root}", "check 'root'")
        file = self.options.references
        self.references = None if file is None else read_references(Path(file))

    def find(
        self,
        task: TaskConfig,
        dataset: str,
        alone: tuple[bool, bool],
        items: Sequence[Item],
        generation: Mapping[str, Any],
        ids: Sequence[str],
    ) -> Found:
        """The images of a task on a data set under a protocol.

        Args:
            dataset: its label.
            alone: whether the run has this data set alone, and this task alone.
            items, generation: the task's under the protocol.
            ids: of the data set.

        Raises:
            UserError: items without an image where that is an error; two items of one file name; a
                reference that is no sample.
        """
        about = {k: v for k, v in generation.items() if k not in _NOT_OURS}
        wanted, marks = tuple(items), []
        if self.references is not None and TASKS[task.name].reference:
            wanted = self._own_pairs(items, ids)
            if not set(wanted) <= set(items):
                about.pop("pairs", None)
                marks.append(OWN_PAIRS)
        if TASKS[task.name].classes != "drawn" or task.classes:
            about.pop("shape_classes", None)
            if about.get("pairs") != "derangement":  # nothing is drawn at all
                about.pop("seed", None)
        folder = self._folder(task, dataset, *alone)
        if isinstance(folder, str):
            return Found(wanted, about, reason=folder)
        there = by_stem(folder, IMAGE_SUFFIXES)
        stems = self._stems(task.name, wanted)
        files = {i: there[stem] for i, stem in stems.items() if stem in there}
        used = set(stems.values())
        unused = tuple(path.name for stem, path in there.items() if stem not in used)
        expected = {item.id for item in items} | set(stems)
        lacking = sorted(expected - set(files))
        if lacking:
            marks.append(self._lacking(task, folder, lacking, len(expected), unused))
        kept = tuple(item for item in wanted if item.id in files)
        hashes = file_hashes(list(files.values()))
        text = "".join(f"{item.id}\0{hashes[files[item.id]].hex()}\n" for item in kept)
        identity = hashlib.sha256(text.encode()).hexdigest()
        reason = "" if kept else f"none of its {len(expected)} images is in {folder}"
        return Found(
            items=kept or wanted,
            generation=about,
            files=files,
            identity=identity,
            reason=reason,
            remarks=tuple(marks),
            missing=tuple(lacking),
            unused=unused,
        )

    def _lacking(
        self,
        task: TaskConfig,
        folder: Path,
        lacking: Sequence[str],
        total: int,
        unused: Sequence[str],
    ) -> str:
        """The remark on items without an image.

        Raises:
            UserError: such items are an error.
        """
        if self.options.missing == "skip":
            return f"{len(lacking)} of {total} images are missing"
        other = f"; {len(unused)} files there are no item's: {some(unused)}" if unused else ""
        if self.references is not None and TASKS[task.name].reference:
            other += f"; the list of references names {len(self.references)} targets"
        more = "; the protocol's 'samples' says how many a label map has"
        raise UserError(
            f"{task.slug}: {len(lacking)} of {total} images are missing in {folder}: "
            f"{some(lacking)}{other}",
            "bring them, name the files by a 'pattern', or score the others alone: 'missing: skip'"
            + (more if TASKS[task.name].variants == "samples" else ""),
        )

    def _folder(self, task: TaskConfig, dataset: str, one_set: bool, one_task: bool) -> Path | str:
        """Where the images of a task lie, or why nowhere."""
        inner = self.root / _plain(dataset)
        bases = [inner, self.root] if one_set else [inner]
        names = dict.fromkeys((task.slug, _plain(task.slug)))
        for base in bases:
            for name in names:
                if (base / name).is_dir():
                    return base / name
        if one_task:
            for base in bases:
                if base.is_dir() and _holds_images(base):
                    return base
        looked = " or ".join(str(bases[-1] / name) for name in names)
        return f"no folder {looked}"

    def _stems(self, task: str, items: Sequence[Item]) -> dict[str, str]:
        """Item id -> name of its file without the suffix."""
        given = self.options.pattern
        pattern = given.get(task) if isinstance(given, dict) else given
        if pattern is None:
            return {item.id: item.id for item in items}
        if "{k" in pattern and TASKS[task].variants != "samples":
            raise UserError(
                f"the pattern '{pattern}' counts samples, and '{task}' has one image a label map",
                f'say which task it is for: pattern: {{sample: "{pattern}"}}',
            )
        stems = {item.id: _named(pattern, item) for item in items}
        if len(set(stems.values())) < len(stems):
            raise UserError(
                f"the pattern '{pattern}' gives several images of '{task}' one name",
                "use {k} for samples, {alpha} for interpolations",
            )
        return stems

    def _own_pairs(self, items: Sequence[Item], ids: Sequence[str]) -> tuple[Item, ...]:
        """The items with the references of the list; those that it does not name are left out."""
        assert self.references is not None  # the caller has asked
        known = set(ids)
        names = {name for pair in self.references.items() for name in pair}
        strangers = sorted(names - known)
        if strangers:
            raise UserError(
                f"{self.options.references} names {len(strangers)} samples that the data set does "
                f"not have: {some(strangers)}",
                "a line is 'target reference', by ids of the data set",
            )
        own = self.references
        return tuple(replace(i, reference=own[i.target]) for i in items if i.target in own)


def conflict(planned: Sequence[Sequence[Item]], own_pairs: bool) -> str:
    """Why one folder cannot hold the images of all these lists of items; "" where it can.

    Args:
        own_pairs: references are those of a list, so that the protocols' do not matter.
    """
    known: dict[str, Item] = {}
    for items in planned:
        for item in items:
            told = replace(item, reference="") if own_pairs else item
            if known.setdefault(item.id, told) != told:
                return (
                    "the run's protocols pair targets, or draw classes, differently, and a folder "
                    "of images follows one of them (run one protocol, or give 'references')"
                )
    return ""


def read_references(path: Path) -> dict[str, str]:
    """``target reference`` a line, apart by a tab, a comma or blanks, as target -> reference.

    Raises:
        UserError: no readable text file, a line of another form, a target twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"the list of references {path} cannot be read: {error}", "check 'references'"
        ) from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = [part.strip() for part in re.split(r"\t|,", line)]
        parts = line.split() if len(parts) == 1 else parts
        if len(parts) != 2 or not all(parts):
            raise UserError(f"{path}, line {number}: {line!r}", "expected: target reference")
        if parts[0] in found:
            raise UserError(
                f"{path}, line {number}: the target {parts[0]} is there twice",
                "a task has one image a target; score further pairs as a method of their own",
            )
        found[parts[0]] = parts[1]
    if not found:
        raise UserError(f"{path} lists no pairs", "a line is: target reference")
    return found


def _named(pattern: str, item: Item) -> str:
    k = item.id.rpartition("~k")[2]
    values = {"id": item.target, "alpha": item.alpha, "reference": item.reference}
    try:
        return pattern.format(**values, k=int(k) if k.isdigit() else 0)
    except (ValueError, TypeError) as error:
        raise UserError(f"the pattern '{pattern}' does not fit {item.id}: {error}") from error


def _plain(text: str) -> str:
    """``class_transfer[hair+skin]`` as ``class_transfer-hair-skin``."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-")


def _holds_images(folder: Path) -> bool:
    return any(Path(e.name).suffix.lower() in IMAGE_SUFFIXES for e in listed(folder))
