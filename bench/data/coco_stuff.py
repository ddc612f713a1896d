"""COCO-Stuff in the official layout (stuffthingmaps) or the one of the SPADE family."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sisbench.core.errors import UserError, did_you_mean
from sisbench.core.label_space import LabelSpace
from sisbench.data.paired import PairedFolders

OFFICIAL_COUNTS = {"train": 118_287, "val": 5_000}
_MAPS = ("stuffthingmaps", "stuffthingmaps_trainval2017", "annotations")


class COCOStuff(PairedFolders):
    """COCO-Stuff (Caesar et al., CVPR 2018): 182 classes as stored (COCO id - 1), 255 unlabelled.

    Args:
        root: official: [images/]{train2017,val2017}/*.jpg and
            {stuffthingmaps,stuffthingmaps_trainval2017,annotations}/{train2017,val2017}/*.png; or
            SPADE's: {train,val}_img, {train,val}_label and, where there, {train,val}_inst.
        split: "train" (118,287) or "val" (5,000; the papers test on it).
        size: side or [height, width], default 256 (aspect lost, as the SPADE family does).
        limit: only the first items.

    Raises:
        UserError: neither layout is there, unpaired files, an unknown split.
    """

    name = "coco_stuff"

    def __init__(
        self,
        root: str | Path,
        split: str = "val",
        size: int | Sequence[int] | None = 256,
        limit: int | None = None,
    ) -> None:
        if split not in OFFICIAL_COUNTS:
            raise UserError(f"no split '{split}'", did_you_mean(split, OFFICIAL_COUNTS))
        images, labels, instances = _folders(Path(root), split)
        space = LabelSpace.named("coco_stuff")
        super().__init__(space, split, images, labels, instances, size, limit)
        self._official = None if limit else OFFICIAL_COUNTS[split]


def _folders(root: Path, split: str) -> tuple[Path, Path, Path | None]:
    """(photographs, label maps, instance maps) of whichever layout is there."""
    packed, labels, instances = (root / f"{split}_{kind}" for kind in ("img", "label", "inst"))
    if packed.is_dir():
        return packed, labels, instances if instances.is_dir() else None
    year = f"{split}2017"
    pictures = [p for p in (root / "images" / year, root / year) if p.is_dir()]
    maps = [root / name / year for name in _MAPS if (root / name / year).is_dir()]
    if not pictures or not maps:
        raise UserError(
            f"{root} holds neither {split}_img + {split}_label nor [images/]{year} + "
            f"stuffthingmaps/{year}",
            "check 'root' and 'split'",
        )
    return pictures[0], maps[0], None
