"""Cityscapes in the official layout: leftImg8bit and gtFine, raw ids or train ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sisbench.core.errors import UserError, did_you_mean
from sisbench.core.label_space import LabelSpace
from sisbench.data.paired import PairedFolders, by_stem, listed, looked_up

OFFICIAL_COUNTS = {"train": 2_975, "val": 500}
TRAIN_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Raw id of each train id."""
IGNORED = 255
_TABLE = np.full(35, IGNORED)
_TABLE[list(TRAIN_IDS)] = range(len(TRAIN_IDS))
_KINDS = ("ids", "train_ids")


class Cityscapes(PairedFolders):
    """Cityscapes (Cordts et al., CVPR 2016) with its instance maps.

    Args:
        root: folder of leftImg8bit/SPLIT/CITY/*_leftImg8bit.png and
            gtFine/SPLIT/CITY/*_gtFine_{labelIds,instanceIds}.png.
        split: "train" (2,975) or "val" (500; the papers test on it).
        size: side or [height, width], default the papers' [256, 512].
        limit: only the first items.
        labels: "ids" for the raw ids (space ``cityscapes``), "train_ids" for the 19 classes of the
            benchmark (space ``cityscapes_train``; everything else is ignored).

    Raises:
        UserError: missing folders, unpaired files, an unknown split or kind of labels.
    """

    name = "cityscapes"

    def __init__(
        self,
        root: str | Path,
        split: str = "val",
        size: int | Sequence[int] | None = (256, 512),
        limit: int | None = None,
        labels: str = "ids",
    ) -> None:
        if split not in OFFICIAL_COUNTS:
            raise UserError(f"no split '{split}'", did_you_mean(split, OFFICIAL_COUNTS))
        if labels not in _KINDS:
            raise UserError(f"'labels' must be one of {', '.join(_KINDS)}, got {labels!r}")
        self._train_ids = labels == "train_ids"
        space = LabelSpace.named("cityscapes_train" if self._train_ids else "cityscapes")
        photographs = _files(Path(root) / "leftImg8bit" / split, "_leftImg8bit")
        truth = Path(root) / "gtFine" / split
        maps, instances = (_files(truth, f"_gtFine_{k}Ids") for k in ("label", "instance"))
        self._open(space, split, photographs, maps, instances, size, limit)
        self._official = None if limit else OFFICIAL_COUNTS[split]

    def relabelled(self, label: np.ndarray, path: Path) -> np.ndarray:
        """Raw ids as train ids where these are asked for."""
        return looked_up(label, _TABLE, path) if self._train_ids else label


def _files(folder: Path, ending: str) -> dict[str, Path]:
    """Files of every city by what stands before ``ending``, by name."""
    if not folder.is_dir():
        raise UserError(f"no folder {folder}", "check 'root' and 'split'")
    cities = sorted(entry.name for entry in listed(folder) if entry.is_dir())
    found = {
        stem.removesuffix(ending): path
        for city in cities
        for stem, path in by_stem(folder / city, (".png",)).items()
        if stem.endswith(ending)
    }
    if not found:
        raise UserError(f"{folder} holds no CITY/*{ending}.png", "is the download complete?")
    return dict(sorted(found.items()))
