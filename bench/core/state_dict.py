"""The one reader of weights files: state dicts, read without running anything in them, and hashes
of their tensors."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import pickletools
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sisbench.core.errors import UserError
from sisbench.core.file_hash import sha256_of, stamp
from sisbench.core.file_kinds import is_safetensors, refuse_foreign

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "sisbench/1"
WRAPPERS = ("state_dict", "model_state_dict", "model", "params", "net")
"""Names under which training codes store a state dict beside epoch, optimiser and the like."""
PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every key."""

_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the magic number, pickled
_LEGACY_PICKLES = 5  # magic number, version, machine, object, keys; then come the tensors' bytes
_DEEPEST = 8  # wrappers within one another


# ---- hashes of tensors ------------------------------------------------------------------------


def joined_hash(hashes: Mapping[str, str]) -> str:
    """One hash of the files of several modules: the only one, or the hash of all in name order."""
    if len(set(hashes.values())) == 1:
        return next(iter(hashes.values()))
    return hashlib.sha256("".join(hashes[m] for m in sorted(hashes)).encode()).hexdigest()


def state_hash(official: Mapping[str, Mapping[str, Tensor]]) -> str:
    """Content hash of state dicts of any dtype by module name (one without modules is ``{"":
    state}``), independent of the order of keys."""
    import torch

    digest = hashlib.sha256()
    for module in sorted(official):
        for key in sorted(official[module]):
            value = official[module][key].detach().cpu().contiguous()
            name = f"{module}.{key}" if module else key
            digest.update(f"{name}:{value.dtype}:{tuple(value.shape)}".encode())
            digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


# ---- reading ----------------------------------------------------------------------------------


def read_state(path: Path, mapped: bool = False) -> dict[str, Tensor]:
    """The state dict in a .pth/.pt/.ckpt/.bin or .safetensors file, told apart by content.

    Nothing in it is executed; pickled objects beside the tensors (a Lightning file's callbacks) are
    passed over. Wrappers (``WRAPPERS``, within one another too) are opened and a prefix of
    ``PREFIXES`` on every key is stripped. Floats of every other width become float32, so that what
    is folded later is computed in float32 at least: float16 and bfloat16 exactly, float64 rounded.

    Args:
        path: the file.
        mapped: leave the values of a torch file on the disk until they are looked at: to compare
            its keys, while it is not written to.

    Raises:
        Unavailable: no such file.
        UserError: another kind of file (it is named), damaged, not readable without running code,
            no state dict, or several (plain and averaged weights are never chosen between).
    """
    refuse_foreign(path)
    raw = _read_safetensors(path) if is_safetensors(path) else _read_torch(path, mapped)
    return plain_state(_state_in(raw, path))


def read_hashed(path: Path) -> tuple[dict[str, Tensor], str]:
    """``read_state`` of a file, and its sha256, taken while it is read: the file leaves the disk
    once, and the hash is that of what was loaded.

    Raises:
        Unavailable, UserError: as ``read_state``; the file was written to meanwhile.
    """
    refuse_foreign(path)
    before = stamp(path)
    with ThreadPoolExecutor(1) as pool:
        digest = pool.submit(sha256_of, path)
        state = read_state(path)
    if stamp(path) != before:
        raise UserError(
            f"{path} was written to while it was read", "wait until it is whole, and start again"
        )
    return state, digest.result()


def plain_state(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """A state dict as networks take it: tensors alone, without ``PREFIXES``, floats float32."""
    import torch

    found = {str(k): v for k, v in state.items() if isinstance(v, torch.Tensor)}
    for _ in range(_DEEPEST):
        prefix = next((p for p in PREFIXES if found and all(k.startswith(p) for k in found)), "")
        if not prefix:
            break
        found = {k.removeprefix(prefix): v for k, v in found.items()}
    return {k: v.float() if v.is_floating_point() else v for k, v in found.items()}


def read_metadata(path: Path) -> dict[str, Any] | None:
    """What a sisbench safetensors file says of itself (method, space, options), else None.

    Raises:
        UserError: a safetensors file that is cut off or damaged.
    """
    if not path.is_file() or not is_safetensors(path):
        return None
    refuse_foreign(path)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as handle:
            raw = handle.metadata() or {}
        return json.loads(raw["sisbench"]) if raw.get("format") == FORMAT else None
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is a damaged safetensors file: {_reason(error)}", "download it again")


def _reason(error: Exception) -> str:
    """The line of an error that says most; torch buries it under advice that we do not give."""
    lines = str(error).splitlines() or [type(error).__name__]
    found = next((line for line in lines if "WeightsUnpickler error" in line), lines[0])
    return found.strip()[:160]


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:  # copies lie aligned in memory, as torch.load's do: sums then round alike
        return {k: v.clone() for k, v in load_file(path).items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _read_torch(path: Path, mapped: bool) -> Any:
    try:
        return _load_plain(path, mapped)
    except Exception as error:  # torch raises a dozen types here; each means: not plain tensors
        if isinstance(error, EOFError) or "unexpected EOF" in str(error) or _ends_early(path):
            size = path.stat().st_size
            raise UserError(
                f"{path} is cut off (its end is missing after {size} bytes)", "download it again"
            ) from error
        raise UserError(
            f"{path} cannot be read as plain tensors: {_reason(error)}",
            "the file is damaged, or holds pickled objects, which sisbench does not run; "
            "re-save its state_dict with torch.save in an environment that you trust",
        ) from error


def _ends_early(path: Path) -> bool:
    """Whether one of the pickles at the start of a torch file from before 1.6 has no end."""
    with path.open("rb") as stream:
        if not stream.read(len(_LEGACY)).startswith(_LEGACY):
            return False
        stream.seek(0)
        try:
            for _ in range(_LEGACY_PICKLES):
                for _ in pickletools.genops(stream):
                    pass
        except ValueError:
            return True
    return False


def _load_plain(path: Path, mapped: bool = False) -> Any:
    """``torch.load`` of tensors alone; objects of unknown classes beside them are passed over.

    It is torch's restricted unpickler both times. The second time each name that it does not know
    stands for an inert class, so nothing of that name is imported or called.
    """
    import torch

    try:
        if mapped and path.suffix != ".safetensors" and zipfile.is_zipfile(path):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        with path.open("rb") as stream:  # torch goes by the suffix where it is given a path
            return torch.load(stream, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        if not zipfile.is_zipfile(path):
            raise
    known = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([_inert(name) for name in sorted(_pickled_names(path))])
    try:
        mapped = path.suffix != ".safetensors"
        source: Any = path if mapped else io.BytesIO(path.read_bytes())
        return torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
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


# ---- wrappers ---------------------------------------------------------------------------------


def _state_in(raw: Any, path: Path) -> Mapping[str, Any]:
    """The state dict within what a file holds."""
    for _ in range(_DEEPEST):
        if not isinstance(raw, Mapping):
            break
        inner = {str(k): v for k, v in raw.items() if _holds_state(v)}
        usual = [name for name in WRAPPERS if name in inner]
        averaged = [name for name in inner if "ema" in name.lower() or "averag" in name.lower()]
        if len(usual) == 1 and not averaged:
            raw = inner[usual[0]]
        elif not usual and not averaged and _is_state(raw):
            break
        elif len(inner) == 1 and not _is_state(raw):
            (raw,) = inner.values()
        elif inner:
            names = sorted(inner)
            raise UserError(
                f"{path} holds several state dicts: {', '.join(names)}",
                "save the one that is meant by itself: torch.save(torch.load(FILE, "
                f"weights_only=True)['{names[0]}'], NEW_FILE)",
            )
        else:
            break
    if not _is_state(raw):
        raise UserError(
            f"{path} holds no state dict (a {type(raw).__name__})",
            "a weights file holds tensors by name; a pickled network is not opened: "
            "save its state_dict() where it can be run",
        )
    return raw


def _is_state(value: Any) -> bool:
    import torch

    return isinstance(value, Mapping) and any(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in value.items()
    )


def _holds_state(value: Any, depth: int = 0) -> bool:
    """Whether ``value`` is a state dict, or wraps one under a usual name."""
    if not isinstance(value, Mapping) or depth > _DEEPEST:
        return False
    inner = (value[name] for name in WRAPPERS if name in value)
    return _is_state(value) or any(_holds_state(v, depth + 1) for v in inner)
