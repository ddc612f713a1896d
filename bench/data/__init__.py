"""Data sets: one file each, opened by name; every sample is validated when it is decoded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, get_type_hints

from pydantic import PydanticUserError, TypeAdapter, ValidationError

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
    "sisbench.data.base:Dataset",
)


def open_dataset(name: str, **arguments: Any) -> Dataset:
    """The data set called ``name`` (or ``./file.py:Class``) with its own arguments (root, split,
    ...).

    Raises:
        UserError: unknown name or argument, an argument of a wrong kind, missing folders, unpaired
            files.
    """
    cls = registry.get(name)
    _check_kinds(cls, arguments, f"data set '{name}'")
    try:
        dataset: Dataset = cls(**arguments)
    except TypeError as error:
        if "argument" not in str(error):
            raise
        said = str(error).split("__init__() ")[-1]
        needed = re.findall("'([^']+)'", said) if "required positional" in said else []
        told = f"needs {', '.join(repr(n) for n in needed)}" if needed else said
        raise UserError(
            f"data set '{name}': {told}",
            "give --root DIR, or see: sisbench datasets"
            if needed == ["root"]
            else "see: sisbench datasets",
        ) from error
    return dataset


def _check_kinds(cls: type[Dataset], arguments: Mapping[str, Any], where: str) -> None:
    """Refuse values that are not what the class's annotations say, as a list for a path."""
    try:
        hints = get_type_hints(cls.__init__)
    except Exception:  # names that only a type checker knows: the class has to look for itself
        return
    for name in arguments.keys() & hints.keys():
        try:
            kind: TypeAdapter[Any] = TypeAdapter(hints[name])
            kind.validate_python(arguments[name], strict=True)
        except PydanticUserError:  # a kind of the class's own
            continue
        except ValidationError as error:
            expected = cls.__init__.__annotations__[name]
            shown = expected if isinstance(expected, str) else getattr(expected, "__name__", "")
            raise UserError(
                f"{where}: {name}: expected {shown or expected}, got {arguments[name]!r:.200}"
            ) from error
