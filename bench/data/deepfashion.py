"""DeepFashion in the layout of the INADE demo: img/, label/ and inst/ under one root."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sisbench.core.label_space import LabelSpace
from sisbench.data.paired import PairedFolders


class DeepFashion(PairedFolders):
    """DeepFashion with 8 part classes (as packed by INADE, Tan et al., CVPR 2021).

    Args:
        root: folder that holds img, label and inst, or SPLIT_img, SPLIT_label and SPLIT_inst.
        split: prefix of the folders; "" when there is none.
        size: side or [height, width], default 256.
        limit: only the first items.
    """

    name = "deepfashion"

    def __init__(
        self,
        root: str | Path,
        split: str = "",
        size: int | Sequence[int] | None = 256,
        limit: int | None = None,
    ) -> None:
        prefix = f"{split}_" if split else ""
        image, label, instance = (Path(root) / f"{prefix}{f}" for f in ("img", "label", "inst"))
        there = instance if instance.is_dir() else None
        super().__init__(LabelSpace.named("deepfashion"), split, image, label, there, size, limit)
