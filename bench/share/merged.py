"""Writing a merged run: a folder that every command takes as it takes any run."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from sisbench.core.errors import UserError
from sisbench.core.log import Manifest
from sisbench.core.store import CellView, RunStore, write_json
from sisbench.share.merge import merging
from sisbench.share.sources import Merging, Source, Taken

Images = Literal["link", "none", "refer"]
_SMALL = ("items", "rows", "values")
_PICTURES = ("images", "labels")


def write_merged(found: Merging, out: Path, images: Images = "link") -> None:
    """The merged run; its manifest comes last, so that a half written one is no run.

    Args:
        images: "link" (a hard link, or a copy where the disk is another), "none", or "refer" (the
            folder points to the run's own: for a report that is made and thrown away).

    Raises:
        UserError: nothing can be merged; ``out`` is not empty.
    """
    if not found.taken:
        raise UserError("nothing is left to merge", "; ".join(found.refused[:3]))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not empty", "give a new folder: -o OUT")
    out.mkdir(parents=True, exist_ok=True)
    for one in found.taken:
        _write_cell(one, out / one.entry.folder, images)
    store = RunStore(out)
    store.write_scores(found.scores, found.metrics, found.protocols)
    store.write_manifest(_manifest(found, out))


@contextmanager
def one_run(runs: Sequence[Path]) -> Iterator[tuple[Path, Merging | None]]:
    """A run's folder: the one that is named, or several as one that is gone afterwards."""
    if len(runs) == 1:
        yield runs[0], None
        return
    with tempfile.TemporaryDirectory(prefix="sisbench-") as folder:
        found = merging(runs)
        out = Path(folder) / "merged"
        write_merged(found, out, "refer")
        yield out, found


def _write_cell(one: Taken, to: Path, images: Images) -> None:
    to.mkdir(parents=True)
    for name in _SMALL:
        _bring(one.cell.folder / name, to / name)
    for name in _PICTURES:
        source = one.cell.folder / name
        if images == "link":
            _bring(source, to / name)
        elif images == "refer" and source.is_dir():
            (to / name).symlink_to(source.absolute(), target_is_directory=True)
    log = _log(one.cell)
    if log is not None:
        write_json(to / "cell.json", {"key": one.entry.key, "method": log})


def _log(cell: CellView) -> dict[str, Any] | None:
    try:
        log = cell.log()
    except UserError:  # damaged: the report of the run itself names it
        return None
    return None if log is None else log.method


def _bring(source: Path, to: Path) -> None:
    """Every plain file of a folder and those in it, by hard link where the disk allows it."""
    for folder, _, names in os.walk(source):
        target = to / Path(folder).relative_to(source)
        target.mkdir(parents=True, exist_ok=True)
        for name in sorted(names):
            file = Path(folder) / name
            if file.is_symlink() or not file.is_file():
                continue
            try:
                os.link(file, target / name)
            except OSError:
                shutil.copy2(file, target / name)


def _manifest(found: Merging, out: Path) -> Manifest:
    first = found.sources[0].manifest
    provenance = {"merged": [p for s in found.sources for p in _provenance(s)]}
    return Manifest(
        version=first.version,
        name=_name(out),
        config=_config(found, out),
        protocols=tuple(found.protocols),
        provenance=provenance | ({"refused": found.refused} if found.refused else {}),
        cells=tuple(one.entry for one in found.taken),
    )


def _provenance(source: Source) -> list[dict[str, Any]]:
    """Of a run, or of those that it was merged from."""
    own = source.manifest.provenance
    before = own.get("merged")
    if isinstance(before, list):
        return [dict(p) for p in before]
    return [{"run": source.name} | own]


def _config(found: Merging, out: Path) -> dict[str, Any]:
    """A configuration that scoring takes: every method, data set and task that was taken."""
    merged = found.sources[0].config.model_dump(mode="json")
    methods: dict[str, Any] = {}
    datasets: dict[str, Any] = {}
    tasks: dict[str, Any] = {}
    parsers: dict[str, str] = {}
    weights: dict[str, str] = {}
    names: list[str] | None = []
    for source in found.sources:
        config = source.config
        own = [one for one in found.taken if one.source is source]
        for one in own:
            label, before = one.entry.method.label, one.cell.entry.method.label
            for method in config.methods:
                if method.shown == before:
                    methods.setdefault(label, method.model_dump(mode="json") | {"label": label})
        for dataset in config.datasets:
            if any(one.entry.dataset.label == dataset.shown for one in own):
                datasets.setdefault(dataset.shown, dataset.model_dump(mode="json"))
        for task in config.tasks:
            tasks.setdefault(task.slug, task.model_dump(mode="json"))
        parsers, weights = config.parsers | parsers, config.weights | weights
        every = names is None or config.metrics is None
        names = None if every else [*(names or []), *(config.metrics or ())]
    chosen = None if names is None else list(dict.fromkeys(names))
    return merged | {
        "name": _name(out),
        "output": str(out),
        "methods": list(methods.values()),
        "datasets": list(datasets.values()),
        "tasks": list(tasks.values()),
        "metrics": chosen,
        "parsers": parsers,
        "weights": weights,
    }


def _name(out: Path) -> str:
    plain = re.sub(r"[^A-Za-z0-9 ._+-]+", "-", out.name).lstrip(" ._+-")
    return plain or "merged"
