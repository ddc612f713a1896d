"""Any paired folders with a label space of their own, described by a YAML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sisbench.core.label_space import LabelSpace
from sisbench.data.paired import PairedFolders


class Folder(PairedFolders):
    """ROOT/[SPLIT/]images + labels (+ instances), any stems.

    Args:
        root: folder that holds ``images`` and ``labels``, or one sub-folder a split.
        space: name of a label space, or path of its YAML file (name, classes, ignore, background).
        split: sub-folder; "" when there is none.
        size: side or [height, width]; None keeps that of the first photograph.
        limit: only the first items.
        images, labels, instances: names of the sub-folders; ``instances`` is optional.
    """

    name = "folder"

    def __init__(
        self,
        root: str | Path,
        space: str,
        split: str = "",
        size: int | Sequence[int] | None = None,
        limit: int | None = None,
        images: str = "images",
        labels: str = "labels",
        instances: str | None = None,
    ) -> None:
        where = Path(root) / split
        is_file = space.endswith((".yaml", ".yml"))
        found = LabelSpace.from_yaml(Path(space)) if is_file else LabelSpace.named(space)
        super().__init__(
            found,
            split,
            where / images,
            where / labels,
            where / instances if instances else None,
            size,
            limit,
        )
