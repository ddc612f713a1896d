"""What a cell's folder holds: images, the rows that vouch for them, and what is still missing."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
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


_ROWS, _SECONDS = 128, 2.0
"""Rows of a file, and how long the first of them waits: a cell of small images leaves few files, a
kill loses the credit of two seconds' images at most."""


@dataclass
class Destination:
    """Where images go: the cell's folder, its rule of quantisation, the items that it misses."""

    folder: Path
    key: str
    quantise: str
    missing: frozenset[str] = field(repr=False)
    _rows: list[dict[str, Any]] = field(default_factory=list, repr=False)
    _since: float = 0.0

    def write(self, drawn: Sequence[Drawn]) -> None:
        """Pictures at once, then the rows that vouch for them, some together; each file whole or
        not at all. ``close`` must follow."""
        if not self._rows:
            self._since = time.monotonic()
        for one in drawn:
            hashes = {}
            for part, pixels in (("image", one.image), ("label", one.label)):
                if pixels is not None:
                    data = png_bytes(label_pixels(pixels) if part == "label" else pixels)
                    write_atomic(self.folder / f"{part}s" / f"{one.row['id']}.png", data)
                    hashes[part] = hashlib.sha256(data).hexdigest()
            known = {"sha256": hashes.get("image"), "label_sha256": hashes.get("label")}
            self._rows.append(one.row | known)
        if len(self._rows) >= _ROWS or time.monotonic() - self._since > _SECONDS:
            self.close()

    def close(self) -> None:
        """Write the rows that wait."""
        if not self._rows:
            return
        names = "\0".join(row["id"] for row in self._rows)
        digest = hashlib.sha256(names.encode()).hexdigest()[:8]  # shards differ in their rows
        first = min(row["index"] for row in self._rows)
        write_items(self.folder / "items" / f"part-{first:06d}-{digest}.parquet", self._rows)
        self._rows = []


def merge_items(root: Path) -> None:
    """The item rows of a cell's folder: many small parts become one file. A kill in between leaves
    rows twice, which is harmless."""
    folder = root / "items"
    parts = sorted(folder.glob("part-*.parquet"))
    if not parts:
        return
    write_items(folder / "all.parquet", CellFolder(root).items())
    for part in parts:
        part.unlink(missing_ok=True)


def write_items(path: Path, rows: list[dict[str, Any]]) -> None:
    """Item rows as one parquet file, whole or not at all."""
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
    write_atomic(path, buffer.getvalue().to_pybytes())
