"""What a process asks of the disk, one event at a time: listed, refused at the k-th, or the last
thing that it does before SIGKILL."""

from __future__ import annotations

import builtins
import io
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_KINDS = {"os.mkdir": "mkdir", "os.rename": "rename", "os.remove": "remove"}

Event = tuple[str, str]
"""(kind: mkdir, open, write, fsync, rename, remove or connect; path)."""


class _Raw(io.FileIO):
    """A file that says of each write that it will happen, after half of it did."""

    asked: Callable[[str, str], None]
    path: str

    def write(self, data: Any) -> int:
        block = bytes(data)
        super().write(block[: len(block) // 2])
        self.asked("write", self.path)
        return len(block) // 2 + (super().write(block[len(block) // 2 :]) or 0)


def watch(root: str, met: Callable[[Event], None]) -> None:
    """Call ``met`` before every change below ``root`` that this process makes through Python."""
    names: dict[int, str] = {}

    def asked(kind: str, path: Any) -> None:
        if isinstance(path, bytes):
            path = path.decode()
        full = os.path.abspath(path) if isinstance(path, str | os.PathLike) else ""
        if full.startswith(root) and not full.endswith(("said.txt", ".lock")):
            met((kind, os.path.relpath(full, root)))

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str) and isinstance(flags, int) and flags & _WRITING:
                asked("open", path)
        elif event == "sqlite3.connect":
            asked("connect", arguments[0])
        elif event in _KINDS:
            asked(_KINDS[event], arguments[1 if event == "os.rename" else 0])

    plain_open, plain_fdopen, plain_fsync = io.open, os.fdopen, os.fsync
    plain_mkstemp = __import__("tempfile").mkstemp

    def raw(file: Any, mode: str, path: str) -> io.BufferedWriter:
        stream = _Raw(file, mode.replace("b", "").replace("t", ""))
        stream.asked, stream.path = asked, path
        names[stream.fileno()] = path
        return io.BufferedWriter(stream)

    def mkstemp(*args: Any, **more: Any) -> tuple[int, str]:
        handle, name = plain_mkstemp(*args, **more)
        names[handle] = name
        return handle, name

    def fdopen(handle: int, mode: str = "r", *args: Any, **more: Any) -> Any:
        if mode == "wb" and handle in names:
            return raw(handle, mode, names[handle])
        return plain_fdopen(handle, mode, *args, **more)

    def open_(file: Any, mode: str = "r", *args: Any, **more: Any) -> Any:
        if mode in ("wb", "xb") and isinstance(file, str | os.PathLike):
            return raw(file, mode, str(file))
        return plain_open(file, mode, *args, **more)

    def fsync(handle: Any) -> None:
        number = handle if isinstance(handle, int) else handle.fileno()
        asked("fsync", names.get(number, ""))
        plain_fsync(handle)

    import tempfile

    sys.dont_write_bytecode = True
    os.fdopen, os.fsync, tempfile.mkstemp = fdopen, fsync, mkstemp  # type: ignore[assignment]
    builtins.open = io.open = open_  # type: ignore[assignment]
    sys.addaudithook(hook)


def listed(root: str, to: str) -> None:
    """Write the events of this process to the file ``to`` (outside of ``root``), line by line."""
    handle = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    watch(root, lambda event: os.write(handle, (json.dumps(event) + "\n").encode()) and None)


def events(to: Path) -> list[Event]:
    """What ``listed`` wrote."""
    lines = to.read_text(encoding="utf-8").splitlines()
    return [(kind, path) for kind, path in map(json.loads, lines)]


def killed(root: str, at: int) -> None:
    """SIGKILL this process at its event number ``at``."""
    count = 0

    def met(_: Event) -> None:
        nonlocal count
        count += 1
        if count > at:
            os.kill(os.getpid(), signal.SIGKILL)

    watch(root, met)


def refused(root: str, at: int, number: int, from_then_on: bool) -> None:
    """Event number ``at`` gets an OSError of ``number``; ``from_then_on`` all later ones too, but
    for removals."""
    count = 0

    def met(event: Event) -> None:
        nonlocal count
        count += 1
        later = from_then_on and count > at + 1 and event[0] != "remove"
        if count == at + 1 or later:
            raise OSError(number, os.strerror(number), os.path.join(root, event[1]))

    watch(root, met)
