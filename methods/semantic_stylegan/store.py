"""Inversions kept on disk by content: what they depend on is their name."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import torch
from torch import Tensor

from sisbench.core.errors import UserError
from sisbench.core.file_hash import cache_dir
from sisbench.core.state_dict import read_state
from sisbench.methods.semantic_stylegan.inversion import Inversion

VERSION = 1
"""Raised when the procedure changes what it finds."""


def content_key(image: Tensor, about: Mapping[str, Any]) -> str:
    """Hash of a photograph (3, H, W) and of all else that its inversion depends on."""
    digest = hashlib.sha256(json.dumps({"version": VERSION, **about}, sort_keys=True).encode())
    digest.update(image.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


class InversionStore:
    """One safetensors file an inversion, with the seconds that it took; a generator that was tuned
    is not kept (80 MB each).

    Args:
        folder: where they lie; by default below the cache folder.
    """

    def __init__(self, folder: Path | None = None) -> None:
        cache = folder or cache_dir() or Path(tempfile.mkdtemp(prefix="sisbench-"))
        self.folder = folder or cache / "inversions"

    def read(self, key: str, shape: tuple[int, ...], device: torch.device) -> Inversion | None:
        """What was kept under ``key``; None where nothing, or a damaged file, is there.

        Args:
            key: from ``content_key``.
            shape: of the rows.
            device: where the tensors go.
        """
        path = self._path(key)
        if not path.is_file():
            return None
        try:
            state = read_state(path)
        except UserError:  # cut off or damaged: it is made again
            return None
        rows, took = state.pop("rows", None), state.pop("seconds", None)
        if rows is None or tuple(rows.shape) != shape:
            return None
        noises = tuple(state[f"noise_{i}"].to(device) for i in range(len(state)))
        seconds = None if took is None else float(took)
        return Inversion(rows.to(device), noises or None, seconds)

    def write(self, key: str, found: Inversion) -> None:
        """Keep ``found``; a reader never sees half a file."""
        from safetensors.torch import save

        state = {"rows": found.rows}
        if found.seconds is not None:
            state["seconds"] = torch.tensor(found.seconds, dtype=torch.float64)
        state |= {f"noise_{i}": n for i, n in enumerate(found.noises or ())}
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=path.parent, delete=False) as stream:
            stream.write(save({k: v.cpu().contiguous() for k, v in state.items()}))
        os.replace(stream.name, path)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"
