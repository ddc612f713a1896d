"""Which stored cell holds the images that a protocol would make."""

from __future__ import annotations

from collections.abc import Sequence

from sisbench.core.store import CellView
from sisbench.protocol import Protocol


def cells_under(cells: Sequence[CellView], protocol: Protocol) -> list[CellView]:
    """One cell for every method, data set and task: the one whose images the protocol would make,
    else the nearest one as impossible, with the fields that differ."""
    found = []
    for group in _places(cells):
        nearest = min(group, key=lambda c: len(differences(c, protocol)))
        differing = differences(nearest, protocol)
        found.append(_without_images(nearest, differing) if differing else nearest)
    return found


def differences(cell: CellView, protocol: Protocol) -> list[str]:
    """Fields of a protocol by which its images of a cell would differ from the stored ones."""
    wanted = protocol.generation
    return [k for k, v in cell.entry.generation.items() if wanted[k] != v]


def _places(cells: Sequence[CellView]) -> list[list[CellView]]:
    """The cells of one method, data set and task together (one for each kind of images)."""
    groups: dict[tuple[str, str, str], list[CellView]] = {}
    for cell in cells:
        groups.setdefault(cell.entry.place, []).append(cell)
    return list(groups.values())


def _without_images(cell: CellView, fields: Sequence[str]) -> CellView:
    """The cell as it stands under a protocol whose images, other in ``fields``, were not made."""
    reason = cell.entry.reason if cell.entry.status in ("impossible", "failed") else ""
    if not reason:
        differ = "differs" if len(fields) == 1 else "differ"
        reason = f"its images under this protocol were not made: {', '.join(fields)} {differ}"
    return CellView(
        cell.folder, cell.entry.model_copy(update={"status": "impossible", "reason": reason})
    )
