"""Photographs and other real sets of a run's cells: opened once, mapped to rows once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sisbench.config import DatasetConfig
from sisbench.core.adapter_file import as_user_error
from sisbench.core.errors import Unavailable, UserError
from sisbench.core.progress import Progress
from sisbench.core.store import CellView
from sisbench.data import open_dataset
from sisbench.metrics.base import RowMaker
from sisbench.score.columns import Request
from sisbench.score.rows import Mapped, map_rows
from sisbench.score.sources import Photographs, real_source

NAMED = 5
"""Left-out items that the console names; more are counted."""


class RealSets:
    """What generated images are compared with; shared by all cells of a run."""

    def __init__(self, request: Request, progress: Progress) -> None:
        self.request, self.progress = request, progress
        self._photos: dict[str, Photographs] = {}
        self.closed: dict[str, UserError] = {}
        self._reals: dict[tuple[str, str, str], Mapped | UserError | None] = {}

    def opened(self, cell: CellView) -> Photographs | UserError:
        """The photographs of a cell; a data set that cannot be opened is the reason why its scores
        are not made, and no other's."""
        label = cell.entry.dataset.label
        if label not in self.closed:
            try:
                return self.photographs(cell.entry.dataset.config)
            except Exception as error:  # a data set is anybody's
                self.closed[label] = as_user_error(error)
        return self.closed[label]

    def photographs(self, config: Mapping[str, Any]) -> Photographs:
        """Those of a data set, as its entry in the manifest configures it."""
        parsed = DatasetConfig.model_validate(config)
        if parsed.shown not in self._photos:
            dataset = open_dataset(parsed.name, **parsed.arguments)
            self._photos[parsed.shown] = Photographs(dataset, dataset.fingerprint())
        return self._photos[parsed.shown]

    def check(self, cell: CellView, photos: Photographs) -> None:
        """Refuse to compare images with other photographs than they were made from."""
        before = cell.entry.dataset.fingerprint
        if before and before != photos.fingerprint:
            raise UserError(
                f"the data set '{cell.entry.dataset.label}' changed since its images were "
                f"made: its content was {before[:12]} and is {photos.fingerprint[:12]}",
                "bring the former files back, or make the images anew: sisbench run CONFIG",
            )

    def rows(
        self,
        cell: CellView,
        split: str,
        name: str,
        maker: RowMaker,
        share: tuple[int, int] = (0, 1),
    ) -> Mapped | UserError | None:
        """Rows of the real set that a metric compares with; None where it has none, or where only
        a share of them was mapped."""
        if not split:
            return None
        config = DatasetConfig.model_validate(cell.entry.dataset.config)
        for given in self.request.real_stats.get(cell.entry.dataset.label, ()):
            if (given.split, given.maker) == (split, maker.name):
                return given.rows_for(maker)
        if split == "train":
            if config.train is None:
                return Unavailable(
                    "the protocol compares with the training photographs, and none are configured",
                    "add 'train: {root: ..., split: train}' to the data set",
                )
            merged = config.arguments | config.train
            label = f"{config.shown} (train)"
            config = DatasetConfig(name=config.name, label=label, arguments=merged, train=None)
        key = (config.shown, name, maker.fingerprint())
        if key not in self._reals:
            try:
                photos = self.photographs(config.model_dump())
            except Exception as error:  # a data set is anybody's: its own empty cells
                self._reals[key] = as_user_error(error)
                return self._reals[key]
            source, workers = real_source(photos), self.request.workers
            found = map_rows(source, {name: maker}, self.progress, workers, share).get(name)
            self._reals[key] = found
            for item, reason in list(getattr(found, "left_out", {}).items())[:NAMED]:
                self.progress.say(f"left out of {source.label}: {item}: {reason}")
        return self._reals[key]
