"""Label spaces: the classes of a label map, their colours, and which of them are background."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from sisbench.core.errors import UserError, did_you_mean
from sisbench.core.schema import Strict, validated
from sisbench.core.yaml_file import parse_yaml, read_yaml

HOLE = -1
"""Label of a pixel of no class, as a shape swap leaves behind; its one-hot column is all zeros."""


_Level = Annotated[int, Field(ge=0, le=255)]


@dataclass(frozen=True)
class LabelSpace:
    """The classes of a label map.

    Attributes:
        name: as ``celebamask_hq``.
        classes: names by class id.
        ignore: label value that scores leave out, or None.
        background: ids that are no part of the subject.
        palette: one RGB colour (0..255) a class; () draws distinct ones.
    """

    name: str
    classes: tuple[str, ...]
    ignore: int | None = None
    background: frozenset[int] = frozenset({0})
    palette: tuple[tuple[int, int, int], ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "background", frozenset(self.background))
        palette = self.palette or _distinct_colours(len(self.classes))
        object.__setattr__(self, "palette", tuple(tuple(int(v) for v in rgb) for rgb in palette))

    def __len__(self) -> int:
        return len(self.classes)

    def index(self, wanted: int | str) -> int:
        """Class id of a name or of an id.

        Raises:
            UserError: no such class.
        """
        if isinstance(wanted, int) and 0 <= wanted < len(self.classes):
            return wanted
        if isinstance(wanted, str) and wanted in self.classes:
            return self.classes.index(wanted)
        raise UserError(
            f"label space '{self.name}' has no class {wanted!r}",
            did_you_mean(str(wanted), self.classes),
        )

    def indices(self, wanted: Iterable[int | str]) -> tuple[int, ...]:
        """Class ids of names or ids, in the order given."""
        return tuple(self.index(w) for w in wanted)

    @staticmethod
    def named(name: str) -> LabelSpace:
        """A label space that comes with sisbench.

        Raises:
            UserError: unknown name.
        """
        spaces = _named_spaces()
        if name not in spaces:
            raise UserError(f"no label space is called '{name}'", did_you_mean(name, spaces))
        return spaces[name]

    @staticmethod
    def from_yaml(path: Path) -> LabelSpace:
        """A label space from a YAML file: ``name``, ``classes``, and optionally ``ignore``,
        ``background`` (ids or names), ``palette`` (RGB triples).

        Raises:
            UserError: missing file, wrong keys or types.
        """
        hint = "write one: name, classes, ignore, background"
        return _space_from_dict(read_yaml(path, "label space file", hint), str(path))


class _SpaceFile(Strict):
    """The keys of a label space file."""

    name: str = Field(min_length=1)
    classes: tuple[str, ...] = Field(min_length=1)
    ignore: int | None = None
    background: tuple[int | str, ...] = (0,)
    palette: tuple[tuple[_Level, _Level, _Level], ...] = ()


def _space_from_dict(raw: Any, where: str) -> LabelSpace:
    found = validated(_SpaceFile, raw, where)
    doubled = sorted({c for c in found.classes if found.classes.count(c) > 1})
    if doubled:
        raise UserError(f"{where}: classes: {', '.join(doubled)} stand twice")
    if found.palette and len(found.palette) != len(found.classes):
        raise UserError(f"{where}: {len(found.palette)} colours for {len(found.classes)} classes")
    bare = LabelSpace(found.name, found.classes)
    background = frozenset(bare.indices(found.background))
    return LabelSpace(found.name, found.classes, found.ignore, background, found.palette)


@lru_cache(maxsize=1)
def _named_spaces() -> dict[str, LabelSpace]:
    text = files("sisbench.core").joinpath("spaces.yaml").read_text(encoding="utf-8")
    return {
        raw["name"]: _space_from_dict(raw, "spaces.yaml") for raw in parse_yaml(text, "spaces.yaml")
    }


def _distinct_colours(n: int) -> tuple[tuple[int, int, int], ...]:
    """Black for class 0, then hues by the golden ratio with three alternating lightnesses."""
    colours = [(0, 0, 0)]
    for i in range(1, n):
        rgb = colorsys.hls_to_rgb((i * 0.618034) % 1.0, (0.62, 0.45, 0.78)[i % 3], 0.75)
        colours.append(tuple(round(255 * v) for v in rgb))  # type: ignore[arg-type]
    return tuple(colours[:n])
