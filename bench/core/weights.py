"""The weights registry: what a file is for, where it comes from, and the hash it must have.

Nothing is downloaded unless ``fetch`` is called. Files lie in $SISBENCH_WEIGHTS, else in the user's
cache folder; an explicit path may stand in for a name anywhere.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from sisbench.core.errors import Unavailable, UserError, did_you_mean
from sisbench.core.file_hash import forget_hashes, sha256_of
from sisbench.core.file_kinds import foreign_kind, refuse_foreign

LOCK = "weights.lock.json"


@dataclass(frozen=True)
class Weight:
    """One registered file.

    Attributes:
        name, purpose, file: registry name, what needs it, file name in the cache folder; with a
            slash at its end it is a folder, which is not kept there, but given by its path.
        kind: "metric", "training", "parser" or "method".
        package: folder of an importable package that brings the file, or None.
        url: where ``fetch`` gets it, or None; ``where`` says in words how to get it by hand.
        sha256: its hash, where a source states one.
        sha256_prefix: first hex digits of the hash, where the file's name carries them.
        size: bytes, where stated.
        licence, notes: as the source states them.
    """

    name: str
    kind: str
    purpose: str
    file: str
    package: str | None = None
    url: str | None = None
    where: str = ""
    sha256: str | None = None
    sha256_prefix: str | None = None
    size: int | None = None
    licence: str = "not stated"
    notes: str = ""


@lru_cache(maxsize=1)
def load_registry() -> Mapping[str, Weight]:
    """Every entry of bench/core/weights.yaml, by name."""
    text = files("sisbench.core").joinpath("weights.yaml").read_text(encoding="utf-8")
    raw = yaml.safe_load(text)
    return {name: Weight(name=name, **entry) for name, entry in raw.items()}


def get(name: str) -> Weight:
    """The entry called ``name``.

    Raises:
        UserError: unknown name.
    """
    registry = load_registry()
    if name not in registry:
        raise UserError(f"no weights are called '{name}'", did_you_mean(name, registry))
    return registry[name]


def folder() -> Path:
    """$SISBENCH_WEIGHTS, else ``weights`` in sisbench's folder of the user's cache."""
    named = os.environ.get("SISBENCH_WEIGHTS")
    if named:
        return Path(named).expanduser()
    import pooch

    return Path(pooch.os_cache("sisbench")) / "weights"


def path(name: str) -> Path:
    """The verified file of an entry.

    A file of another name in the cache folder is found by its hash, where the hash is known.

    Raises:
        UserError: unknown name, or a file whose hash is wrong or not pinned yet.
        Unavailable: the file is not there; says its name and how to get it.
    """
    weight = get(name)
    found = _locate(weight)
    if found is None:
        raise Unavailable(f"the weights '{name}' ({weight.file}) are not here", remedy(weight))
    _require(weight, found)
    return found


def resolve(name: str, given: Path | str | None = None) -> Path:
    """``given`` where the user names a file, else the registered file ``name``.

    Raises:
        Unavailable: the named file does not exist, or the registered one is absent.
        UserError: it is a folder.
    """
    if given is None:
        return path(name)
    found = Path(given).expanduser()
    if found.is_dir():
        raise UserError(f"{found} is a folder, not a weights file", "give the file in it")
    if not found.is_file():
        raise Unavailable(f"no weights file {found}", f"or leave it out and: {remedy(get(name))}")
    return found


def remedy(weight: Weight) -> str:
    """How to get a file, in one sentence."""
    if weight.file.endswith("/"):
        return f"{weight.where}; give the folder's path"
    add = f"sisbench weights add {weight.name} FILE"
    if weight.package:
        return weight.where
    if weight.url:
        return f"sisbench weights fetch {weight.name}, or with a copy at hand: {add}"
    return f"{weight.where or 'no public source is known'}; then: {add}"


def _locate(weight: Weight) -> Path | None:
    root = folder()
    expected = root / weight.file
    if expected.is_file():
        return expected
    packaged = _in_package(weight)
    if packaged is not None:
        return packaged
    known = _known_hash(weight)
    if known is None or not root.is_dir():
        return None
    for other in sorted(root.iterdir()):
        if not other.is_file() or other.name == LOCK:
            continue
        if weight.size is not None and other.stat().st_size != weight.size:
            continue
        if sha256_of(other) == known:
            return other
    return None


def _in_package(weight: Weight) -> Path | None:
    """The file where an installed package brings it."""
    if weight.package is None:
        return None
    package, _, inner = weight.package.partition("/")
    try:
        place = Path(str(files(package))) / inner / weight.file
    except ModuleNotFoundError:
        return None
    return place if place.is_file() else None


def _known_hash(weight: Weight) -> str | None:
    return weight.sha256 or _lock().get(weight.name)


def _matches(weight: Weight, digest: str) -> bool | None:
    """True or False against what is known of the hash; None where nothing is known."""
    known = _known_hash(weight)
    if known is not None:
        return digest == known
    if weight.sha256_prefix is not None:
        return digest.startswith(weight.sha256_prefix)
    return None


def _require(weight: Weight, found: Path) -> None:
    digest = sha256_of(found)
    matches = _matches(weight, digest)
    if matches is not True:
        refuse_foreign(found)
    if matches is None:
        raise UserError(
            f"{found}: no source states the hash of '{weight.name}', and it is not pinned yet",
            f"if you trust the file: sisbench weights add {weight.name} {found}",
        )
    if not matches:
        expected = _known_hash(weight) or f"{weight.sha256_prefix}..."
        raise UserError(
            f"{found} is not '{weight.name}': its sha256 is {digest}, expected {expected}",
            "the file is damaged or another one; get it again, or pass it by an explicit path",
        )


def fetch(name: str, *, progress: bool = False, offline: bool = False) -> Path:
    """Download a file into the cache folder and verify it.

    Args:
        progress: show a progress bar.
        offline: refuse to use the network.

    Raises:
        Unavailable: offline, no address is known, or the download failed.
        UserError: the hash of what came is wrong; the file is removed.
    """
    weight = get(name)
    if _locate(weight) is not None:
        return path(name)
    if offline:
        raise Unavailable(f"'{name}' is not here and the network is off", remedy(weight))
    if weight.url is None:
        raise Unavailable(f"no address is known for '{name}'", remedy(weight))
    got = _download(weight, progress)
    matches = _matches(weight, sha256_of(got))
    foreign = None if matches is True else foreign_kind(got)
    if matches is False or foreign is not None:
        came = f"it is {foreign[0]}" if foreign else f"sha256 {sha256_of(got)}"
        got.unlink()
        raise UserError(
            f"{weight.url} gave another file than '{name}': {came}",
            "try again later, or add a copy that you trust: " + remedy(weight),
        )
    if weight.sha256 is None:
        _pin(weight, sha256_of(got))
    return got


def _download(weight: Weight, progress: bool) -> Path:
    import pooch
    import requests

    try:
        got = pooch.retrieve(
            weight.url,
            known_hash=None,  # verified by the caller, who also knows prefixes and pins
            fname=weight.file,
            path=folder(),
            progressbar=progress,
        )
    except (OSError, ValueError, requests.exceptions.RequestException) as error:
        raise Unavailable(f"{weight.url} cannot be fetched: {error}", remedy(weight)) from error
    return Path(got)


def add(name: str, file: Path | str) -> str:
    """Copy a file that the user has into the cache folder.

    Returns:
        one sentence: where it lies now, and whether its hash was verified or pinned.

    Raises:
        UserError: no such file, no weights file (a web page, a Git LFS pointer, an archive, cut
            off, empty: it is named), or its hash is wrong.
    """
    weight = get(name)
    if weight.file.endswith("/"):
        raise UserError(f"'{name}' is a folder of files", "give its path as weights")
    source = Path(file).expanduser()
    if not source.exists():
        raise UserError(f"no file {source}", "give the path of the downloaded file")
    if source.is_dir() or _matches(weight, sha256_of(source)) is not True:
        refuse_foreign(source)
    digest = sha256_of(source)
    if _matches(weight, digest) is False:
        _require(weight, source)
    target = folder() / weight.file
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.resolve() != target.resolve():
        temporary = target.with_name(f".{target.name}.part")
        shutil.copyfile(source, temporary)
        os.replace(temporary, target)
    if weight.sha256 is not None:
        return f"{target}: sha256 verified"
    _pin(weight, digest)
    return f"{target}: no source states its whole sha256; pinned {digest} in {folder() / LOCK}"


def identify(file: Path) -> str | None:
    """Name of the entry whose (known) hash a file has, whatever it is called."""
    digest = sha256_of(file)
    for weight in load_registry().values():
        if _matches(weight, digest):
            return weight.name
    return None


def verify() -> list[tuple[str, bool, str]]:
    """(name, is it right, path and hash) of every file that is here; each is read anew."""
    forget_hashes()
    found = []
    for weight in load_registry().values():
        place = _locate(weight)
        if place is not None:
            digest = sha256_of(place)
            matches = _matches(weight, digest)
            said = {True: "", False: ", wrong", None: ", no hash known: not pinned"}[matches]
            found.append((weight.name, matches is True, f"{place} sha256 {digest}{said}"))
    return found


def status() -> list[dict[str, Any]]:
    """One mapping an entry: name, kind, purpose, file, licence, source (where it comes from), here
    (bool), state ("here", "absent"; "not pinned" where no hash is known), remedy."""
    return [_status(weight) for weight in load_registry().values()]


def _status(weight: Weight) -> dict[str, Any]:
    place = _locate(weight)
    known = _known_hash(weight) or weight.sha256_prefix
    return {
        "name": weight.name,
        "kind": weight.kind,
        "purpose": weight.purpose,
        "file": weight.file,
        "licence": weight.licence,
        "source": weight.url or weight.where,
        "here": place is not None,
        "state": "absent" if place is None else "here" if known else "not pinned",
        "remedy": remedy(weight),
    }


def _lock() -> dict[str, str]:
    file = folder() / LOCK
    if not file.is_file():
        return {}
    try:
        raw: Any = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{file} is damaged: {error}", "delete it and add the files again"
        ) from error
    return {str(k): str(v) for k, v in raw.items()}


def _pin(weight: Weight, digest: str) -> None:
    file = folder() / LOCK
    pinned = _lock() | {weight.name: digest}
    temporary = file.with_name(f".{LOCK}.part")
    temporary.write_text(json.dumps(pinned, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(temporary, file)
