"""Results of a run as data frames: one row a score, or one row an image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sisbench.core.errors import UserError
from sisbench.core.log import BASIS, ItemRow, Manifest, ScoreRecord
from sisbench.core.store import CellView, RunStore, read_values

if TYPE_CHECKING:
    import pandas as pd

PLACE = ["method", "dataset", "task"]
SCORE_COLUMNS = [
    *("method", "title", "dataset", "task", "metric", "protocol"),
    *("value", "se", "low", "high", "n", "n_real", "reason", "marks", *BASIS, "cell"),
]
ITEM_COLUMNS = ["method", "title", "dataset", "task", "protocol", *ItemRow.model_fields, "image"]


class Run:
    """A run folder's results, finished or not.

    Example:
        >>> run = open_run("runs/demo")                              # doctest: +SKIP
        >>> run.scores().pivot(index="title", columns="metric", values="value")  # doctest: +SKIP

    Raises:
        UserError: no run there, a damaged manifest, or one of another version.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.manifest: Manifest = self._store.manifest()

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {len(self.manifest.cells)} cells)"

    @property
    def _store(self) -> RunStore:
        return RunStore(self.path)

    @cached_property
    def cells(self) -> list[CellView]:
        """Every cell in plan order: its entry in the manifest, its images and item rows."""
        return self._store.cells()

    def scores(self) -> pd.DataFrame:
        """One row a score, as ``SCORE_COLUMNS``: values as stored (fractions for percentages), NaN
        with a ``reason`` where there is none; ``low`` and ``high`` bound the 95 % interval.

        Raises:
            UserError: the run has no scores yet, or their file is damaged.
        """
        return score_frame(self._store.scores()[0])

    def items(self) -> pd.DataFrame:
        """One row an image and protocol, as ``ITEM_COLUMNS``, and a column for each metric with
        per-image values: their mean is the score (for a set's score, as FID or mIoU, they are its
        jackknife pseudo-values).

        ``image`` is the path of the PNG, "" where there is none; ``error`` says why.

        Raises:
            UserError: a file of values is damaged.
        """
        try:
            scores = self._store.scores()[0]
        except UserError:
            scores = []  # images without scores have rows as well
        return item_frame(self.cells, scores)


def score_frame(scores: Iterable[ScoreRecord]) -> pd.DataFrame:
    """One row a score; see ``Run.scores``."""
    import pandas as pd

    rows = []
    for s in scores:
        low, high = s.ci or (None, None)
        own = {name: getattr(s, name) for name in SCORE_COLUMNS if hasattr(s, name)}
        own |= {name: s.extra.get(name, "") for name in BASIS}
        rows.append(own | {"low": low, "high": high, "marks": "; ".join(s.marks)})
    frame = pd.DataFrame(rows, columns=SCORE_COLUMNS)
    frame = frame.astype(dict.fromkeys(("value", "se", "low", "high"), "float64"))
    return frame.astype({"n": "int64", "n_real": "Int64"})


def item_frame(cells: Sequence[CellView], scores: Sequence[ScoreRecord] = ()) -> pd.DataFrame:
    """One row an image and protocol; see ``Run.items``."""
    import pandas as pd

    found = [frame for cell in cells for frame in _frames_of(cell, scores)]
    if not found:
        return pd.DataFrame(columns=ITEM_COLUMNS)
    return pd.concat(found, ignore_index=True)


def _frames_of(cell: CellView, scores: Sequence[ScoreRecord]) -> Iterable[pd.DataFrame]:
    """One frame for each protocol that the cell's images stand under."""
    import pandas as pd

    rows = cell.item_rows()
    if not rows:
        return
    own = [s for s in scores if s.cell == cell.key and s.value is not None]
    for protocol in dict.fromkeys([*cell.entry.protocols, *(s.protocol for s in own)]):
        method, dataset, task = cell.entry.place
        head = {"method": method, "title": cell.entry.method.title, "dataset": dataset}
        head |= {"task": task, "protocol": protocol}
        frame = pd.DataFrame([_item(head, row, cell) for row in rows], columns=ITEM_COLUMNS)
        for metric in dict.fromkeys(s.metric for s in own if s.protocol == protocol):
            values = read_values(cell, metric, protocol)
            if values is not None:
                frame[metric] = frame["id"].map(values)
        yield frame


def _item(head: dict[str, Any], row: ItemRow, cell: CellView) -> dict[str, Any]:
    path = cell.image_path(row.id)
    fields = {name: getattr(row, name) for name in ItemRow.model_fields}
    return head | fields | {"image": str(path) if path.is_file() else ""}
