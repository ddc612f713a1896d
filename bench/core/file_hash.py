"""sha256 of files: of one, remembered in memory, or of many, remembered in the cache folder."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import lru_cache
from pathlib import Path

from sisbench.core.errors import UserError

_RACY_NS = 2_000_000_000
"""A file changed less than this before it was hashed could change again unseen: file systems
stamp times coarsely, so its hash is not remembered."""

Stamp = tuple[int, int, int, int]
"""Size, time of change, inode, time of change of the inode."""


def cache_dir() -> Path | None:
    """Where what can be made anew is kept: $SISBENCH_CACHE, or the user's cache folder; None where
    there is no home (a folder that others can write is no cache)."""
    given = os.environ.get("SISBENCH_CACHE")
    if given:
        return Path(given).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "sisbench"
    except RuntimeError:
        return None


def sha256_of(path: Path) -> str:
    """Hex digest of a file, remembered in memory for as long as the file is not written to, moved
    or replaced.

    Raises:
        UserError: it cannot be read.
    """
    key = stamp(path)
    settled = key[1] < time.time_ns() - _RACY_NS
    return (_sha256 if settled else _sha256.__wrapped__)(path.resolve(), key)


@lru_cache(maxsize=256)
def _sha256(path: Path, _stamp: Stamp) -> str:
    return _digest(path).hex()


def forget_hashes() -> None:
    """Let the next ``sha256_of`` of every file read it again."""
    _sha256.cache_clear()


def file_hashes(paths: Sequence[Path], workers: int = 2) -> dict[Path, bytes]:
    """sha256 digests (32 bytes) of files. A file whose path, size and mtime are those of an earlier
    call is not read again; without a cache that can be written, all are read.

    Raises:
        UserError: a file cannot be read.
    """
    stamps = {path: stamp(path)[:2] for path in dict.fromkeys(paths)}
    names = {path: os.path.abspath(path) for path in stamps}
    known = _recall(list(names.values()))
    found = {
        path: digest
        for path, (size, mtime) in stamps.items()
        if (row := known.get(names[path])) is not None
        for digest in ([row[2]] if row[:2] == (size, mtime) else [])
    }
    missing = [path for path in stamps if path not in found]
    with ThreadPoolExecutor(workers) as pool:
        found.update(zip(missing, pool.map(_digest, missing), strict=True))
    settled = time.time_ns() - _RACY_NS
    rows = [(names[p], *stamps[p], found[p]) for p in missing if stamps[p][1] < settled]
    _remember(rows)
    return {path: found[path] for path in stamps}


def stamp(path: Path) -> Stamp:
    """What changes where a file is written to, moved or replaced.

    Raises:
        UserError: it cannot be read.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    return status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns


def _digest(path: Path) -> bytes:
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").digest()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def _open() -> sqlite3.Connection:
    folder = cache_dir()
    if folder is None:
        raise FileNotFoundError("no home folder, no cache")
    folder.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(folder / "files.sqlite", timeout=10)
    connection.execute(
        "CREATE TABLE IF NOT EXISTS sealed "
        "(path TEXT PRIMARY KEY, size INTEGER, mtime INTEGER, sha256 BLOB, seal BLOB) WITHOUT ROWID"
    )
    return connection


def _recall(names: Sequence[str]) -> dict[str, tuple[int, int, bytes]]:
    """Remembered (size, mtime, digest) by absolute path; {} where the cache is of no use."""
    try:
        with closing(_open()) as connection:
            connection.execute("CREATE TEMP TABLE wanted (path TEXT PRIMARY KEY)")
            connection.executemany(
                "INSERT OR IGNORE INTO wanted VALUES (?)", ((name,) for name in names)
            )
            rows = connection.execute("SELECT * FROM sealed JOIN wanted USING (path)")
            return {row[0]: row[1:4] for row in rows if row[4] == _seal(*row[:4])}
    except (sqlite3.Error, OSError, UnicodeError):
        return {}


def _seal(path: object, size: object, mtime: object, digest: object) -> bytes:
    """A checksum of one row: SQLite has none, and reads the end of a cut file as zeros."""
    return hashlib.sha256(repr((path, size, mtime, digest)).encode()).digest()[:8]


def _remember(rows: Sequence[tuple[str, int, int, bytes]]) -> None:
    """Best effort: a damaged cache is made anew, one that cannot be written is left."""
    if not rows:
        return
    for attempt in (1, 2):
        try:
            with closing(_open()) as connection, connection:
                sealed = [(*row, _seal(*row)) for row in rows]
                connection.executemany(
                    "INSERT OR REPLACE INTO sealed VALUES (?, ?, ?, ?, ?)", sealed
                )
            return
        except (sqlite3.OperationalError, OSError, UnicodeError):
            return
        except sqlite3.DatabaseError:  # no database any more
            folder = cache_dir()
            if attempt == 1 and folder is not None:
                with suppress(OSError):
                    (folder / "files.sqlite").unlink(missing_ok=True)
