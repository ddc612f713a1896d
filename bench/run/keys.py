"""Content keys: what the images of a cell depend on, as one hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sisbench.config import IMAGES, MethodConfig, TaskConfig
from sisbench.core.adapter_file import class_digest
from sisbench.core.errors import UserError
from sisbench.core.tasks import TASKS
from sisbench.run.items import Item
from sisbench.run.method_entry import method_class, weights_hash

KEY_SCHEMA = 3
"""Enters every content key: raised when the same plan makes other images than before."""
_ITEMS = "\0items"
"""Stands in a content key's text for the items, which many cells share."""


def by_content(cls: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` with the hash of each file or folder that one of them names, in place of its
    path."""

    def content(value: Any) -> Any:
        path = Path(value)
        try:
            return weights_hash(path, cls) if path.exists() else value
        except UserError:  # a folder of another kind: what loads it says so
            return value

    return {k: content(v) if k in cls.file_options and v else v for k, v in options.items()}


def _of_pixels(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of images made elsewhere that change pixels: where the files lie, and by which
    names, does not."""
    return {k: v for k, v in options.items() if k == "resize"}


def cell_key(
    method: MethodConfig,
    identity: str,
    fingerprint: str,
    task: TaskConfig,
    generation: Mapping[str, Any],
    items: str,
    editor: Mapping[str, Any],
) -> str:
    """Content key: method, options, weights, data, task, what the protocol says of its images,
    schema.

    Args:
        items: as ``items_text`` gives them.
    """
    source = method.name
    cls = method_class(source)
    digest = class_digest(cls)
    if digest:  # the user's own: what it does is its content, wherever it lies
        source = f"{source.rpartition(':')[2]}:{digest}"
    own = method.options
    options = _of_pixels(own) if source == IMAGES else by_content(cls, own)
    about: dict[str, Any] = {
        "schema": KEY_SCHEMA,
        "method": source,
        "options": options,
        "weights": identity,
        "data": fingerprint,
        "task": task.model_dump(
            mode="json", exclude=set() if TASKS[task.name].variants == "alphas" else {"alpha"}
        ),
        "items": _ITEMS,
        "protocol": dict(generation),
    } | ({"editor": dict(editor)} if editor else {})
    if method.resize is not None:
        about["resize"] = method.resize
    if getattr(cls, "stored_labels", False):
        about["labels"] = "stored"
    text = json.dumps(about, sort_keys=True, default=str).replace(json.dumps(_ITEMS), items, 1)
    return hashlib.sha256(text.encode()).hexdigest()


def items_text(items: Sequence[Item]) -> str:
    """The items as they enter a content key."""
    return json.dumps([[i.id, i.target, i.reference, list(i.classes), i.alpha] for i in items])
