"""Which data set lies in a folder: its layout, its splits, and how many items each has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sisbench.core.errors import UserError
from sisbench.data import open_dataset
from sisbench.data.paired import listed

_SPLITS = ("test", "val", "train")
_OFFICIAL = {
    "celebamask_hq": ("CelebA-HQ-img",),
    "ade20k": ("images/validation", "images/training"),
    "cityscapes": ("leftImg8bit",),
    "coco_stuff": ("stuffthingmaps", "stuffthingmaps_trainval2017", "val_img", "train_img"),
    "deepfashion": ("img", "test_img"),
}
"""Folders by which an official layout is known."""


@dataclass(frozen=True)
class Found:
    """One split that can be opened.

    Attributes:
        name: registry name of the data set.
        arguments: what ``open_dataset`` takes besides the root.
        count: items; size: (H, W) they are opened at.
        remarks: what the data set says of itself (files that are missing, ...).
    """

    name: str
    arguments: dict[str, Any]
    count: int
    size: tuple[int, int]
    remarks: tuple[str, ...] = ()


def detect(root: Path, name: str = "") -> list[Found]:
    """The splits of the data set in ``root``, the most likely test split first.

    Args:
        root: a folder.
        name: its data set's name; "" tells it by the official layouts, and takes prepared pairs
            (images/ + labels/) for CelebAMask-HQ.

    Raises:
        UserError: no such folder, or nothing in it that any data set knows.
    """
    if not root.is_dir():
        raise UserError(f"no folder {root}", "give the folder that the download was unpacked to")
    names = [name] if name else _known_by_layout(root)
    found = [one for known in names for one in _splits(known, root)]
    if not found:
        raise UserError(
            f"{root} holds no data set that is known",
            "official layouts, or prepared pairs in [SPLIT/]images + labels; see: sisbench "
            "datasets",
        )
    return found


def _known_by_layout(root: Path) -> list[str]:
    known = [
        name
        for name, folders in _OFFICIAL.items()
        if any((root / folder).is_dir() for folder in folders)
    ]
    return known or ["celebamask_hq"]


def _splits(name: str, root: Path) -> list[Found]:
    own = sorted(e.name for e in listed(root) if (root / e.name / "images").is_dir())
    found: list[Found] = []
    for split in dict.fromkeys((*_SPLITS, *own, "all", "")):
        if split in ("all", "") and found:
            break
        try:
            data = open_dataset(name, root=root, split=split)
        except UserError:
            continue
        found.append(Found(name, {"split": split}, len(data), data.size, tuple(data.remarks())))
    return found
