"""The checkpoint that a broken training goes on from: whole or not at all, checked when read."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import torch

from sisbench.core.store import write_atomic

KEYS = frozenset(
    ("identity", "step", "seconds", "method", "networks", "optimisers", "average", "best", "steps")
)


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` (keys: ``KEYS``) in one piece."""
    assert state.keys() == KEYS
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomic(path, buffer.getvalue())


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """What ``write_checkpoint`` wrote; None where the file is cut, or holds something else."""
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load does not ask for the checksums
            if archive.testzip() is not None:
                return None
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # whatever the readers of zip, pickle and tensors meet in it
        return None
    return state if isinstance(state, dict) and state.keys() == KEYS else None
