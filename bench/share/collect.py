"""What statistics are exported of: a data set's split, a run's real set, or a run's images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sisbench import metrics
from sisbench.config import DatasetConfig
from sisbench.core.errors import UserError
from sisbench.core.progress import Progress
from sisbench.core.schema import validated
from sisbench.core.store import CellView, RunStore
from sisbench.data import open_dataset
from sisbench.metrics.base import Context
from sisbench.protocol import Protocol, get_protocol
from sisbench.score.rows import map_rows
from sisbench.score.sources import Photographs, Source, cell_source, in_groups, real_source
from sisbench.share.stats import (
    EXPORTS,
    Statistics,
    about_export,
    export_images,
    export_statistics,
)

_MOST_IMAGES = 8 << 30
"""Bytes of images that one reference batch may hold."""


@dataclass(frozen=True)
class Wanted:
    """Images to export statistics of.

    Attributes:
        source: as rows are mapped from it.
        name: for captions; split: as ``real_stats`` uses it; data: fingerprint of the photographs.
    """

    source: Source
    name: str
    split: str
    data: str


def protocol_of(run: Path | None, name: str) -> Protocol:
    """The run's own protocol of this name or id, or its first where none is named; else a preset.

    Raises:
        UserError: no preset is called so.
    """
    if run is not None:
        entries = RunStore(run).manifest().protocols
        own = [e for e in entries if name in ("", e.id, e.fields().get("name"))]
        if own:
            return validated(Protocol, own[0].fields(), str(run / "run.json"))
    return get_protocol(name or "sisbench1")


def of_dataset(name: str, arguments: Mapping[str, Any]) -> Wanted:
    """The photographs of a data set's split."""
    dataset = open_dataset(name, **arguments)
    photos = Photographs(dataset, dataset.fingerprint())
    split = "train" if dataset.split == "train" else "test"
    return Wanted(real_source(photos), f"{name}-{dataset.split}", split, photos.fingerprint)


def of_run(
    run: Path, dataset: str = "", split: str = "test", method: str = "", task: str = ""
) -> Wanted:
    """A run's real set; or, with ``method``, the images of one of its cells.

    Raises:
        UserError: no such data set, split or cell in the run; a cell without images.
    """
    cells = RunStore(run).cells()
    labels = list(dict.fromkeys(c.entry.dataset.label for c in cells))
    label = dataset or (labels[0] if len(labels) == 1 else "")
    if label not in labels:
        raise UserError(
            f"{run} has no data set '{dataset}'" if dataset else f"{run} has several data sets",
            f"name one with --dataset: {', '.join(labels)}",
        )
    here = [c for c in cells if c.entry.dataset.label == label]
    config = DatasetConfig.model_validate(here[0].entry.dataset.config)
    if method:
        return _of_cell(here, config, method, task)
    arguments = dict(config.arguments)
    if split == "train":
        if config.train is None:
            raise UserError(
                f"{label} has no training photographs in this run",
                "add 'train: {root: ..., split: train}' to the data set",
            )
        arguments |= config.train
    opened = open_dataset(config.name, **arguments)
    photos = Photographs(opened, opened.fingerprint())
    return Wanted(real_source(photos), f"{label}-{split}", split, photos.fingerprint)


def _of_cell(cells: list[CellView], config: DatasetConfig, method: str, task: str) -> Wanted:
    found = [c for c in cells if c.entry.method.label == method]
    found = [c for c in found if not task or c.entry.task.slug == task]
    if len(found) != 1:
        places = ", ".join(f"{c.entry.method.label}/{c.entry.task.slug}" for c in found or cells)
        which = f"{method}/{task}" if task else method
        raise UserError(
            f"{len(found)} cells are called '{which}'", f"name one with --method, --task: {places}"
        )
    items = in_groups([r for r in found[0].item_rows() if not r.error])
    if not items:
        raise UserError(f"{method} has no images there: {found[0].entry.reason}")
    opened = open_dataset(config.name, **config.arguments)
    photos = Photographs(opened, opened.fingerprint())
    source = cell_source(found[0], items, photos, None)
    name = f"{method}-{found[0].entry.task.slug}"
    return Wanted(source, name, "test", photos.fingerprint)


def export(
    wanted: Wanted,
    to: Path,
    kind: str,
    protocol: Protocol,
    progress: Progress,
    *,
    name: str = "",
    keep_features: bool = True,
    context: Context | None = None,
) -> list[Path]:
    """The statistics of ``wanted`` under a protocol's extractor; the files that were written.

    Raises:
        Unavailable: the extractor's weights are not here.
        UserError: an unknown kind, or an extractor that its tool does not use; bad images.
    """
    if kind not in EXPORTS:  # before hours of work
        raise UserError(f"no kind of file is called '{kind}'", f"known: {', '.join(EXPORTS)}")
    shown = name or wanted.name
    if kind == "guided-diffusion":
        return export_images(to, _images(wanted))
    asked = context or Context()
    maker = metrics.create_maker(
        "inception",
        Context(fid=protocol.fid, dtype=protocol.dtype, device=asked.device, weights=asked.weights),
    )
    rows = map_rows(wanted.source, {maker.name: maker}, progress)[maker.name]
    if isinstance(rows, UserError):
        raise rows
    if rows.left_out:
        item, reason = next(iter(rows.left_out.items()))
        raise UserError(
            f"{len(rows.left_out)} of {len(wanted.source.ids)} images cannot be read: {item}: "
            f"{reason}",
            "statistics of a part would not say so; mend the files first",
        )
    found = Statistics.of(rows.columns["features"])
    about = about_export(maker, shown, wanted.split, wanted.data)
    return export_statistics(to, kind, found, about, keep_features)


def _images(wanted: Wanted) -> np.ndarray:
    """(n, H, W, 3) uint8.

    Raises:
        UserError: images of several sizes, or more than fit.
    """
    parts: list[np.ndarray] = []
    for at in range(len(wanted.source.ids)):
        image = wanted.source.read("image", at)
        assert image is not None  # every source has images
        if parts and image.shape != parts[0].shape:
            raise UserError(
                f"{wanted.source.ids[at]} is {image.shape[:2]}, the first image "
                f"{parts[0].shape[:2]}",
                "a reference batch holds images of one size; set 'size'",
            )
        if image.nbytes * len(wanted.source.ids) > _MOST_IMAGES:
            raise UserError("the images take more than 8 GiB", "export another kind: mu and sigma")
        parts.append(image)
    return np.stack(parts)
