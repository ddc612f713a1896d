"""Files of a run: written whole or not at all, damaged ones named, leftovers removed."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from sisbench.core.log import CellEntry
from sisbench.core.store import CellView, sweep, write_atomic
from sisbench.run.stored import write_items


def test_a_failed_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a" / "b.json"
    write_atomic(path, b"first")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, b"second")
    assert path.read_bytes() == b"first"
    assert list(path.parent.iterdir()) == [path]


def test_leftovers_of_killed_processes_are_removed(tmp_path: Path) -> None:
    """Old temporary files alone: not young ones, which somebody writes, and not hidden files."""
    folder = tmp_path / "cells" / "x" / "images"
    folder.mkdir(parents=True)
    old = time.time() - 7200
    names = {".1.png.a1b2c3d4": old, ".2.png.a1b2c3d4": time.time(), ".lock": old, "1.png": old}
    names |= {".hidden.png": old, ".1.png.A1B2C3D4": old}
    for name, stamp in names.items():
        (folder / name).write_bytes(b"x")
        os.utime(folder / name, (stamp, stamp))
    assert sweep(tmp_path) == 1
    assert {p.name for p in folder.iterdir()} == names.keys() - {".1.png.a1b2c3d4"}


def cell(tmp_path: Path, status: str, rows: int) -> CellView:
    """A cell of two items of which ``rows`` have a row."""
    if rows:
        known = [{"id": str(i), "index": i, "error": ""} for i in range(rows)]
        write_items(tmp_path / "items" / "all.parquet", known)
    entry = {
        "key": "k",
        "folder": "c",
        "method": {"label": "m", "title": "m"},
        "dataset": {"label": "d", "name": "d"},
        "task": {"name": "reconstruct", "slug": "reconstruct"},
        "items": 2,
        "status": status,
    }
    return CellView(tmp_path, CellEntry.model_validate(entry))


@pytest.mark.parametrize("rows", [0, 1])
def test_rows_that_are_gone_are_named(tmp_path: Path, rows: int) -> None:
    """In a finished cell: one that is half made has fewer by right."""
    (fault,) = cell(tmp_path, "done", rows).faults()
    assert f"has the rows of {rows} of 2 images" in fault
    assert not cell(tmp_path, "partial", rows).faults()


def test_a_drawn_label_map_that_is_gone_is_not_the_targets(tmp_path: Path) -> None:
    view = cell(tmp_path, "done", 1)
    (row,) = view.item_rows()
    assert view.drawn_path(row) is None
    drawn = row.model_copy(update={"label_sha256": "0" * 64})
    assert view.drawn_path(drawn) == tmp_path / "labels" / "0.png"
