"""ADE20K scene parsing in the official layout (ADEChallengeData2016)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sisbench.core.errors import UserError, did_you_mean
from sisbench.core.label_space import LabelSpace
from sisbench.data.paired import PairedFolders

_FOLDERS = {"train": "training", "val": "validation", "training": "training", "test": "validation"}

OFFICIAL_COUNTS = {"training": 20_210, "validation": 2_000}


class ADE20K(PairedFolders):
    """ADE20K (Zhou et al., CVPR 2017): raw annotation values, 0 = unlabelled, 1..150 = classes.

    Args:
        root: ADEChallengeData2016, which holds images/ and annotations/.
        split: "train" or "val" ("test" means val: the papers test on the 2,000 validation images).
        size: side or [height, width], default 256 (aspect lost, as the SPADE family does).
        limit: only the first items.
    """

    name = "ade20k"

    def __init__(
        self,
        root: str | Path,
        split: str = "val",
        size: int | Sequence[int] | None = 256,
        limit: int | None = None,
    ) -> None:
        if split not in _FOLDERS:
            raise UserError(f"no split '{split}'", did_you_mean(split, _FOLDERS))
        folder = _FOLDERS[split]
        images, labels = Path(root) / "images" / folder, Path(root) / "annotations" / folder
        space = LabelSpace.named("ade20k")
        super().__init__(space, split, images, labels, None, size, limit)
        self._official = None if limit else OFFICIAL_COUNTS[folder]
