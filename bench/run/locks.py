"""Locks of a run folder: one writer of the whole, or any number of shards side by side."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from sisbench.core.errors import UserError
from sisbench.core.shard import Shard

FOLDER = "locks"
"""In the run folder: one file a shard; a lock goes with its process, also under kill -9."""
_POLL = 0.1
_NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL})
"""What file systems without locks answer (Lustre without ``-o flock``, NFS without a lock daemon).
There the work goes on unlocked: images and rows have names of their own content and are written
whole, so that two processes on one share do it twice and lose nothing."""


@contextmanager
def run_lock(root: Path, patience: float = _POLL) -> Iterator[None]:
    """The whole run for one process; no shard works beside it.

    Args:
        patience: as for ``shard_lock``.

    Raises:
        UserError: another process works on this run, or on a shard of it.
    """
    with _open(root / ".lock") as whole:
        if not _taken(whole, fcntl.LOCK_EX, patience):
            raise UserError(
                f"another process works on {root}{_named(busy_shards(root))}",
                "wait for it, or give this run another 'output'",
            )
        yield


@contextmanager
def shard_lock(
    root: Path, shard: Shard, stage: str = "run", patience: float = 1.0
) -> Iterator[None]:
    """One shard of a run for one process, beside other shards.

    Args:
        stage: "run" or "score"; the two have locks of their own.
        patience: seconds to wait for a process that is about to end (one whose job was started
            again elsewhere, say).

    Raises:
        UserError: another process works on this shard, or on the whole run.
    """
    with _open(root / ".lock") as whole, _open(_path(root, shard, stage)) as own:
        if not _taken(whole, fcntl.LOCK_SH, patience):
            raise UserError(f"another process works on all of {root}", "wait for it")
        if not _taken(own, fcntl.LOCK_EX, patience):
            raise UserError(
                f"another process{_said(own)} works on shard {shard} of {root}",
                "it makes the same images: nothing is missing when it ends",
            )
        own.seek(0)
        own.truncate()
        own.write(f"{platform.node()} {os.getpid()}\n")
        own.flush()
        yield


def busy_shards(root: Path) -> list[str]:
    """``run 3/16``, ``score 1/4``: shards that a process works on now, as far as locks tell."""
    found = []
    for path in sorted((root / FOLDER).glob("*.lock")):
        stage, number, of = path.stem.split("-")
        try:
            with path.open("r") as handle:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            found.append((stage, int(of), int(number)))
        except OSError:  # gone, or no locks here
            continue
    return [f"{stage} {number}/{of}" for stage, of, number in sorted(found)]


def _path(root: Path, shard: Shard, stage: str) -> Path:
    return root / FOLDER / f"{stage}-{shard.number}-{shard.of}.lock"


def _open(path: Path) -> IO[str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a+")


def _taken(handle: IO[str], mode: int, patience: float) -> bool:
    """Whether the lock could be had within ``patience`` seconds; True where there are no locks."""
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(handle, mode | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return True
            raise


def _said(handle: IO[str]) -> str:
    handle.seek(0)
    host, _, process = handle.read().strip().partition(" ")
    return f" ({host}, process {process})" if process else ""


def _named(shards: list[str]) -> str:
    return f" ({', '.join(shards[:5])}{', ...' if len(shards) > 5 else ''})" if shards else ""
