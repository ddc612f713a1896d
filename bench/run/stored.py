"""What a cell's folder holds: images, the rows that vouch for them, and what is still missing."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sisbench.core.errors import UserError
from sisbench.core.file_hash import file_hashes
from sisbench.core.store import CellFolder, write_atomic
from sisbench.data.images import label_pixels
from sisbench.data.prepare import png_bytes
from sisbench.run.items import Item
from sisbench.run.plan import Cell

WAITING = 2
"""Groups of images that may wait for the writers, beside the one that is being made."""


def group_size(arithmetic: str) -> int:
    """Images of one forward, from what ``CellLog.arithmetic`` says ("cpu:1"); 1 where it says
    nothing."""
    size = arithmetic.rpartition(":")[2]
    return int(size) if size.isdecimal() and int(size) else 1


def groups_of(items: Sequence[Item], size: int) -> list[list[Item]]:
    """Consecutive items of one alpha, at most ``size`` together. They follow from the plan alone,
    so that a resumed run computes every image in the company it had."""
    groups: list[list[Item]] = []
    for item in items:
        if not groups or len(groups[-1]) == size or groups[-1][0].alpha != item.alpha:
            groups.append([])
        groups[-1].append(item)
    return groups


def pending(root: Path, cell: Cell, share: tuple[int, int] = (0, 1), size: int = 0) -> list[Item]:
    """Items without an image yet, in order; those that failed before are tried again.

    Args:
        root: folder of the run.
        cell: one of its cells.
        share: (k, n) takes every n-th group from the k-th on.
        size: images a group; 0 takes what the cell was begun with.
    """
    folder = CellFolder(root / cell.folder)
    done, (k, n) = finished(folder), share
    groups = groups_of(cell.items, size or group_size(arithmetic_of(folder)))
    return [item for group in groups[k::n] for item in group if item.id not in done]


def arithmetic_of(folder: CellFolder) -> str:
    """Device and group size that the cell's images were begun with; "" where nothing says so."""
    try:
        log = folder.log()
    except UserError:  # damaged: its images are made anew
        return ""
    return "" if log is None else log.arithmetic


def finished(folder: CellFolder) -> set[str]:
    """Ids of the items that have their image: the very file that was written, by its hash, and of
    the cell's present arithmetic (images of two device kinds or group sizes are not mixed)."""
    arithmetic = arithmetic_of(folder)
    vouched = [r for r in folder.item_rows() if not r.error and r.arithmetic == arithmetic]
    files: dict[Path, str] = {}
    for row in vouched:
        files[folder.image_path(row.id)] = row.sha256
        if row.label_sha256:
            files[folder.label_file(row.id)] = row.label_sha256
    there = [path for path in files if path.is_file()]
    hashes = file_hashes(there)
    whole = {p for p in there if not files[p] or hashes[p].hex() == files[p]}
    return {
        row.id
        for row in vouched
        if folder.image_path(row.id) in whole
        and (not row.label_sha256 or folder.label_file(row.id) in whole)
    }


@dataclass
class Drawn:
    """One item as it is to be stored.

    Attributes:
        row: its row (``ItemRow`` as a mapping), without hashes.
        image: (H, W, 3) uint8, or None where it failed.
        label: (H, W) int64 label map that was drawn, or None where it is the target's own.
    """

    row: dict[str, Any]
    image: np.ndarray | None = None
    label: np.ndarray | None = None


def item_row(
    item: Item, index: int, classes: Sequence[int] = (), absent: int = 0, error: str = ""
) -> dict[str, Any]:
    """What an item's row says of it whoever made its image (``ItemRow`` as a mapping).

    Args:
        index: place in the plan; classes: that were edited; absent: how many the reference lacks.
    """
    return {
        "id": item.id,
        "index": index,
        "target": item.target,
        "reference": item.reference,
        "alpha": item.alpha,
        "classes": list(classes),
        "absent": absent,
        "error": error,
    }


_ROWS, _SECONDS = 128, 2.0
"""Rows of a file, and how long the first of them waits: a cell of small images leaves few files, a
kill loses the credit of two seconds' images at most."""


@dataclass
class Destination:
    """Where images go: the cell's folder, its rule of quantisation, the items that it misses.

    A picture is written first, then the row that vouches for it, some rows together; each file
    whole or not at all. ``close`` must follow.
    """

    folder: Path
    key: str
    quantise: str
    missing: frozenset[str] = field(repr=False)
    _rows: list[dict[str, Any]] = field(default_factory=list, repr=False)
    _since: float = 0.0

    def picture(self, one: Drawn) -> dict[str, Any]:
        """Write an item's picture and label map; its row, with their hashes. Threads may do so
        side by side."""
        hashes = {}
        for part, pixels in (("image", one.image), ("label", one.label)):
            if pixels is not None:
                data = png_bytes(label_pixels(pixels) if part == "label" else pixels)
                write_atomic(self.folder / f"{part}s" / f"{one.row['id']}.png", data)
                hashes[part] = hashlib.sha256(data).hexdigest()
        return one.row | {"sha256": hashes.get("image"), "label_sha256": hashes.get("label")}

    def vouch(self, row: dict[str, Any]) -> None:
        """Take in the row of a picture that was written."""
        if not self._rows:
            self._since = time.monotonic()
        self._rows.append(row)
        if len(self._rows) >= _ROWS or time.monotonic() - self._since > _SECONDS:
            self.close()

    def close(self) -> None:
        """Write the rows that wait."""
        if not self._rows:
            return
        first = min(row["index"] for row in self._rows)
        _write_named(self.folder / "items", f"part-{first:06d}", self._rows)
        self._rows = []


class Writers:
    """Threads that encode and write pictures while the next ones are made: encoding releases
    Python's lock. Rows are taken in by the caller's thread, in the order of the items.

    Args:
        threads: pictures in the making at once.
        most: pictures that may wait, each with its pixels in memory; at least ``threads``.
    """

    def __init__(self, threads: int, most: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="writer")
        self._most = max(threads, most)
        self._waiting: deque[tuple[Destination, Future[dict[str, Any]]]] = deque()

    def __enter__(self) -> Writers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Take in what is written; where one could not be, the others first."""
        try:
            self.finish()
        except Exception:
            if kind is None:  # else the first error goes on
                raise
        finally:
            self._pool.shutdown()

    def write(self, destination: Destination, drawn: Sequence[Drawn]) -> None:
        """Have pictures written; waits while too many are on their way.

        Raises:
            Exception: what writing an earlier picture raised; the others are written and kept.
        """
        first: Exception | None = None
        for one in drawn:
            try:
                self._settle(self._most - 1)
            except Exception as error:  # the others of this group are still to be written
                first = first or error
            self._waiting.append((destination, self._pool.submit(destination.picture, one)))
        if first is not None:
            raise first

    def finish(self) -> None:
        """Wait for every picture.

        Raises:
            Exception: as ``write``.
        """
        self._settle(0)

    def _settle(self, left: int) -> None:
        """Take in the rows of the pictures that are written, until at most ``left`` wait."""
        first: Exception | None = None
        while self._waiting and (
            first is not None or len(self._waiting) > left or self._waiting[0][1].done()
        ):
            destination, future = self._waiting.popleft()
            try:
                destination.vouch(future.result())
            except Exception as error:  # a full disk, say: what the others wrote still counts
                first = first or error
        if first is not None:
            raise first


def merge_items(root: Path) -> None:
    """The item rows of a cell's folder: many small parts become one file. A kill in between leaves
    rows twice, which is harmless.

    Files are named by their content, and only those are removed whose rows the new one holds: of
    two runs that join at once, where there are no locks, none takes the other's rows away.
    """
    folder = root / "items"
    if not any(folder.glob("part-*.parquet")) and len(list(folder.glob("all-*.parquet"))) < 2:
        return
    rows, files = CellFolder(root).items_and_files()
    joined = _write_named(folder, "all", rows)
    for file in files:
        if file != joined:
            file.unlink(missing_ok=True)


def _write_named(folder: Path, stem: str, rows: list[dict[str, Any]]) -> Path:
    """Rows in a file named by its content: no two contents share a name."""
    data = items_bytes(rows)
    path = folder / f"{stem}-{hashlib.sha256(data).hexdigest()[:12]}.parquet"
    write_atomic(path, data)
    return path


def write_items(path: Path, rows: list[dict[str, Any]]) -> None:
    """Item rows as one parquet file, whole or not at all."""
    write_atomic(path, items_bytes(rows))


def items_bytes(rows: list[dict[str, Any]]) -> bytes:
    """Item rows as the content of a parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("id", pa.string()),
            ("index", pa.int64()),
            ("target", pa.string()),
            ("reference", pa.string()),
            ("alpha", pa.float64()),
            ("classes", pa.list_(pa.int64())),
            ("absent", pa.int64()),
            ("seconds", pa.float64()),
            ("encode_seconds", pa.float64()),
            ("batch", pa.int64()),
            ("arithmetic", pa.string()),
            ("peak_memory", pa.float64()),
            ("parameters", pa.float64()),
            ("flops", pa.float64()),
            ("sha256", pa.string()),
            ("label_sha256", pa.string()),
            ("error", pa.string()),
        ]
    )
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema), buffer, write_page_checksum=True)
    data: bytes = buffer.getvalue().to_pybytes()
    return data
