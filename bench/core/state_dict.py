"""The one reader of weights files: state dicts, read without running anything in them."""

from __future__ import annotations

import hashlib
import json
import pickle
import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sisbench.core.errors import UserError

FORMAT = "sisbench/1"


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a .pth/.pt/.ckpt or .safetensors file; nothing in it is executed.

    Pickled objects beside the tensors are passed over. A Lightning file's ``state_dict`` and a
    ``{"state_dict": ...}`` wrapper are opened; a leading ``module.`` on every key (DataParallel) is
    stripped.

    Raises:
        UserError: no such file, not readable without running code, or no state dict.
    """
    if not path.is_file():
        raise UserError(f"no weights file at {path}", "see: sisbench weights list")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is not a readable safetensors file: {error}") from error
    try:
        raw = _load_plain(path)
    except Exception as error:  # torch raises a dozen types here; each means: not plain tensors
        reason = str(error).splitlines()[0][:160]
        raise UserError(
            f"{path} cannot be read as plain tensors: {reason}",
            "the file is damaged, or holds pickled objects, which sisbench does not run; "
            "re-save its state_dict with torch.save in an environment that you trust",
        ) from error
    return _plain_state(raw, path)


def _load_plain(path: Path) -> Any:
    """``torch.load`` of tensors alone; objects of unknown classes beside them (a Lightning file's
    callbacks) are passed over.

    It is torch's restricted unpickler both times. The second time each name that it does not know
    stands for an inert class, so nothing of that name is imported or called.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        if not zipfile.is_zipfile(path):
            raise
    known = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([_inert(name) for name in sorted(_pickled_names(path))])
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(known)


class _Inert:
    """Takes whatever a pickled object is made of, and keeps nothing."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_args: Any, **_kwargs: Any) -> None: ...

    def __setstate__(self, _state: Any) -> None: ...


def _inert(name: str) -> type:
    """An inert class called ``module name``."""
    module, _, attribute = name.partition(" ")
    return type(attribute, (_Inert,), {"__module__": module, "__qualname__": attribute})


def _pickled_names(path: Path) -> set[str]:
    """``module name`` of everything that the pickle in torch's zip file refers to."""
    with zipfile.ZipFile(path) as archive:
        member = next(n for n in archive.namelist() if n.endswith("data.pkl"))
        text = archive.read(member)
    return {str(arg) for op, arg, _ in pickletools.genops(text) if op.name == "GLOBAL"}


def _plain_state(raw: Any, path: Path) -> dict[str, Tensor]:
    for wrapper in ("state_dict", "model", "params"):
        if isinstance(raw, Mapping) and isinstance(raw.get(wrapper), Mapping):
            raw = raw[wrapper]
    if not isinstance(raw, Mapping) or not any(isinstance(v, Tensor) for v in raw.values()):
        raise UserError(f"{path} holds no state dict (a {type(raw).__name__})")
    state = {str(k): v for k, v in raw.items() if isinstance(v, Tensor)}
    if state and all(k.startswith("module.") for k in state):
        state = {k.removeprefix("module."): v for k, v in state.items()}
    return state


def read_metadata(path: Path) -> dict[str, Any] | None:
    """What a sisbench safetensors file says of itself (method, space, options), else None."""
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as handle:
            raw = handle.metadata() or {}
    except SafetensorError as error:
        raise UserError(f"{path} is not a readable safetensors file: {error}") from error
    return json.loads(raw["sisbench"]) if raw.get("format") == FORMAT else None


def state_hash(official: Mapping[str, Mapping[str, Tensor]]) -> str:
    """Content hash of state dicts, independent of the order of keys."""
    digest = hashlib.sha256()
    for module in sorted(official):
        for key in sorted(official[module]):
            value = official[module][key].detach().cpu().contiguous()
            digest.update(f"{module}.{key}:{value.dtype}:{tuple(value.shape)}".encode())
            digest.update(value.numpy().tobytes())
    return digest.hexdigest()
