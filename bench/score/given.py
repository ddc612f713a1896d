"""Statistics of a real set that stand in the place of its photographs; where a score's rows lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sisbench.core.errors import Unavailable
from sisbench.core.file_hash import cache_dir
from sisbench.score.rows import Mapped

if TYPE_CHECKING:
    from sisbench.metrics.base import RowMaker, Rows

ROWS, REAL_ROWS = "rows", "real_rows"
"""Keys of a score's ``extra``: file in the cell's rows/; file of the real set's rows, relative to
the user's cache or absolute. A bundle takes them along."""


@dataclass(frozen=True)
class GivenStatistics:
    """A real set as mean and covariance of its features, and perhaps the features themselves.

    Attributes:
        columns: as ``FID.reduce`` takes them for its real set.
        split: of the real set ("test", "train").
        extractor: what the file claims, as ``inception-tf1``; sha256: of the network's weights
            where the file says it, else "".
        said: what the score rests on, for captions.
        path: the file.
    """

    columns: Rows
    split: str
    extractor: str
    sha256: str
    said: str
    path: Path

    @property
    def maker(self) -> str:
        """Name of the row maker that would make such rows."""
        return self.extractor.partition("-")[0]

    def rows_for(self, maker: RowMaker) -> Mapped | Unavailable:
        """The rows where they are of the same extractor as the generated images' are."""
        wanted = extractor_name(maker)
        remedy = "take statistics of that extractor, or a protocol with this one"
        if self.extractor != wanted:
            return Unavailable(
                f"the statistics {self.path.name} are of {self.extractor}, the protocol takes "
                f"{wanted}",
                remedy,
            )
        if self.sha256 and maker.sha256 and self.sha256 != maker.sha256:
            return Unavailable(
                f"the statistics {self.path.name} are of {self.extractor} with weights "
                f"{self.sha256[:12]}, not {maker.sha256[:12]}",
                remedy,
            )
        return Mapped((), self.columns, {}, self.path, self.said)


def extractor_name(maker: RowMaker) -> str:
    """``named_extractor`` of a row maker."""
    return named_extractor(maker.name, maker.preprocess, maker.dtype)


def named_extractor(name: str, preprocess: str, dtype: str) -> str:
    """``inception-tf1``; with the precision where that is not float32."""
    full = f"{name}-{preprocess}" if preprocess else name
    return full if dtype == "float32" else f"{full}-{dtype}"


def rows_of(rows: Mapped | None, real: Mapped | None) -> dict[str, str]:
    """Where a score's rows lie, and what stands for its real set, as entries of its ``extra``."""
    found: dict[str, str] = {}
    if rows is not None and rows.path is not None:
        found[ROWS] = rows.path.name
    if real is not None and real.path is not None:
        found[REAL_ROWS] = _short(real.path)
    if real is not None and real.real_set:
        found["real_set"] = real.real_set
    return found


def real_rows_path(extra: Mapping[str, object]) -> Path | None:
    """The file of the real set's rows that a score names; None where it names none."""
    named, cache = extra.get(REAL_ROWS), cache_dir()
    if not isinstance(named, str) or not named:
        return None
    return Path(named) if cache is None else cache / named


def _short(path: Path) -> str:
    cache = cache_dir()
    if cache is not None and path.is_relative_to(cache):
        return path.relative_to(cache).as_posix()
    return str(path.absolute())
