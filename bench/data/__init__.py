"""Data sets: one file each, opened by name; every sample is validated when it is decoded."""

from __future__ import annotations

from typing import Any

from sisbench.core.errors import UserError
from sisbench.core.registry import Registry
from sisbench.data.base import Dataset, Sample

__all__ = ["Dataset", "Sample", "open_dataset", "registry"]

registry = Registry(
    "sisbench.datasets",
    {
        "toyfaces": "sisbench.data.toyfaces:ToyFaces",
        "celebamask_hq": "sisbench.data.celebamask_hq:CelebAMaskHQ",
        "ade20k": "sisbench.data.ade20k:ADE20K",
        "deepfashion": "sisbench.data.deepfashion:DeepFashion",
        "idesigner": "sisbench.data.idesigner:IDesigner",
        "cityscapes": "sisbench.data.cityscapes:Cityscapes",
        "coco_stuff": "sisbench.data.coco_stuff:COCOStuff",
        "folder": "sisbench.data.folder:Folder",
    },
)


def open_dataset(name: str, **arguments: Any) -> Dataset:
    """The data set called ``name`` (or ``./file.py:Class``) with its own arguments (root, split,
    ...).

    Raises:
        UserError: unknown name or argument, missing folders, unpaired files.
    """
    cls = registry.get(name)
    try:
        dataset: Dataset = cls(**arguments)
    except TypeError as error:
        if "argument" not in str(error):
            raise
        raise UserError(
            f"data set '{name}': {str(error).split('__init__() ')[-1]}",
            "see: sisbench datasets",
        ) from error
    return dataset
