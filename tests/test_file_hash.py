"""Hashes of files are remembered by path, size and mtime, and never wrong for it."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from sisbench.core import file_hash
from sisbench.core.errors import UserError
from sisbench.core.file_hash import file_hashes


def cache_dir() -> Path:
    found = file_hash.cache_dir()
    assert found is not None
    return found


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are really read."""
    found: list[Path] = []
    original = file_hash._digest
    monkeypatch.setattr(file_hash, "_digest", lambda p: (found.append(p), original(p))[1])
    return found


def old(path: Path, content: bytes) -> Path:
    """A file that was changed an hour ago."""
    path.write_bytes(content)
    then = path.stat().st_mtime - 3600
    os.utime(path, (then, then))
    return path


def test_a_file_is_read_once(tmp_path: Path, read: list[Path]) -> None:
    paths = [old(tmp_path / str(i), bytes([i])) for i in range(5)]
    expected = {p: hashlib.sha256(p.read_bytes()).digest() for p in paths}
    assert file_hashes(paths) == expected
    assert file_hashes(paths) == expected
    assert len(read) == 5


def test_a_changed_file_is_read_again(tmp_path: Path, read: list[Path]) -> None:
    path = old(tmp_path / "a", b"one")
    first = file_hashes([path])[path]
    old(path, b"four")
    assert file_hashes([path])[path] != first
    path.write_bytes(b"five")  # just now: a change of the same size could go unseen
    second = file_hashes([path])[path]
    status = path.stat()
    path.write_bytes(b"fine")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file_hashes([path])[path] != second


@pytest.mark.parametrize("damage", ["garbage", "folder", "unwritable"])
def test_a_useless_cache_costs_time_alone(tmp_path: Path, damage: str) -> None:
    path = old(tmp_path / "a", b"one")
    first = file_hashes([path])
    cache = cache_dir() / "files.sqlite"
    if damage == "garbage":
        cache.write_bytes(b"garbage" * 999)
    else:
        cache.unlink()
        if damage == "folder":
            cache.mkdir()
        else:
            cache_dir().rename(tmp_path / "moved")
            cache_dir().write_bytes(b"a file where the folder was")
    assert file_hashes([path]) == first
    assert file_hashes([path]) == first


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        file_hashes([tmp_path / "nowhere"])


def test_a_cut_or_changed_cache_gives_no_other_hash(tmp_path: Path) -> None:
    """SQLite reads the end of a cut file as zeros, and has no checksums."""
    path = tmp_path / "a.png"
    path.write_bytes(b"content")
    old = time.time() - 60
    os.utime(path, (old, old))
    right = file_hashes([path])
    cache = cache_dir() / "files.sqlite"
    whole = cache.read_bytes()
    start = whole.index(right[path])
    for at in range(start - 40, start + 40):
        changed = bytearray(whole)
        changed[min(at, len(whole) - 1)] ^= 1
        cache.write_bytes(changed)
        assert file_hashes([path]) == right, at
    for less in (1, 5, 40):
        cache.write_bytes(whole[:-less])
        assert file_hashes([path]) == right, less


def test_without_a_home_there_is_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("no home")

    for name in ("SISBENCH_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert file_hash.cache_dir() is None
    path = old(tmp_path / "a", b"one")
    assert file_hashes([path]) == {path: hashlib.sha256(b"one").digest()}
