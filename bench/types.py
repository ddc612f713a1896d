"""The leaf types that everything shares: label spaces, batches, noise that belongs to a sample."""

from __future__ import annotations

import colorsys
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import yaml

from bench.errors import UserError, did_you_mean

if TYPE_CHECKING:
    import torch
    from torch import Tensor

HOLE = -1
"""Label of a pixel of no class, as a shape swap leaves behind; its one-hot column is all zeros."""

Task = Literal[
    "reconstruct",
    "transfer",
    "class_transfer",
    "shape_transfer",
    "subject_transfer",
    "sample",
    "mixed",
    "interpolate_style",
    "interpolate_shape",
]
TASKS: tuple[str, ...] = get_args(Task)
"""What a method can be asked for (``bench.tasks`` says what each makes)."""


@lru_cache(maxsize=256)
def pil_nearest(source: int, target: int) -> np.ndarray:
    """(target,) int64: source index of every position under PIL's NEAREST, the rule for label maps.

    floor((i + 0.5) * source / target), summed up step by step in double precision as PIL does: next
    to whole numbers the closed form gives another pixel.
    """
    step = source / target
    steps = np.full(target, step)
    steps[0] = 0.5 * step
    return np.cumsum(steps).astype(np.int64).clip(max=source - 1)


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
        if not path.is_file():
            raise UserError(
                f"no label space file {path}", "write one: name, classes, ignore, background"
            )
        try:
            raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise UserError(f"{path} is not YAML: {error}") from error
        return _space_from_dict(raw, str(path))


def _space_from_dict(raw: Any, where: str) -> LabelSpace:
    known = {"name", "classes", "ignore", "background", "palette"}
    if not isinstance(raw, Mapping) or not {"name", "classes"} <= raw.keys():
        raise UserError(f"{where}: a label space needs 'name' and 'classes'")
    for key in raw.keys() - known:
        raise UserError(f"{where}: unknown key '{key}'", did_you_mean(str(key), known))
    classes = raw["classes"]
    if not isinstance(classes, Sequence) or isinstance(classes, str) or not classes:
        raise UserError(f"{where}: 'classes' must be a list of names, got {classes!r}")
    names = tuple(str(c) for c in classes)
    bare = LabelSpace(str(raw["name"]), names)
    palette = raw.get("palette") or ()
    if palette and len(palette) != len(names):
        raise UserError(f"{where}: {len(palette)} colours for {len(names)} classes")
    return LabelSpace(
        name=str(raw["name"]),
        classes=names,
        ignore=raw.get("ignore"),
        background=frozenset(bare.indices(raw.get("background", [0]))),
        palette=tuple(tuple(rgb) for rgb in palette),
    )


@lru_cache(maxsize=1)
def _named_spaces() -> dict[str, LabelSpace]:
    text = files("bench").joinpath("spaces.yaml").read_text(encoding="utf-8")
    return {raw["name"]: _space_from_dict(raw, "spaces.yaml") for raw in yaml.safe_load(text)}


def _distinct_colours(n: int) -> tuple[tuple[int, int, int], ...]:
    """Black for class 0, then hues by the golden ratio with three alternating lightnesses."""
    colours = [(0, 0, 0)]
    for i in range(1, n):
        rgb = colorsys.hls_to_rgb((i * 0.618034) % 1.0, (0.62, 0.45, 0.78)[i % 3], 0.75)
        colours.append(tuple(round(255 * v) for v in rgb))  # type: ignore[arg-type]
    return tuple(colours[:n])


@dataclass(frozen=True)
class Batch:
    """Samples of one label space.

    Attributes:
        ids: one sample id a row.
        image: (B, 3, H, W) float32 in [-1, 1].
        label: (B, H, W) int64 class ids.
        instance: (B, H, W) int64 instance ids, or None.
        space: the label space of ``label``.
    """

    ids: tuple[str, ...]
    image: Tensor
    label: Tensor
    instance: Tensor | None
    space: LabelSpace

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", tuple(self.ids))
        b = len(self.ids)
        if self.image.ndim != 4 or self.image.shape[:2] != (b, 3):
            raise UserError(f"Batch.image must be ({b}, 3, H, W), got {tuple(self.image.shape)}")
        if self.label.shape != (b, *self.image.shape[2:]):
            raise UserError(
                f"Batch.label must be {(b, *self.image.shape[2:])}, got {tuple(self.label.shape)}"
            )
        if self.instance is not None and self.instance.shape != self.label.shape:
            raise UserError(
                f"Batch.instance must be {tuple(self.label.shape)}, "
                f"got {tuple(self.instance.shape)}"
            )

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: str | torch.device) -> Batch:
        """The same batch on ``device``."""
        instance = None if self.instance is None else self.instance.to(device)
        return replace(
            self, image=self.image.to(device), label=self.label.to(device), instance=instance
        )

    def __getitem__(self, rows: slice) -> Batch:
        instance = None if self.instance is None else self.instance[rows]
        return replace(
            self,
            ids=self.ids[rows],
            image=self.image[rows],
            label=self.label[rows],
            instance=instance,
        )


class Noise:
    """Standard normal noise that depends on (seed, sample id, name) and on nothing else.

    Neither batch size, order of samples, order of draws, rank nor device changes a value. A longer
    draw under the same name begins with the shorter one (row-major).

    Args:
        ids: sample ids of the batch, in its order.
        seed: seed of the run.
    """

    def __init__(self, ids: Sequence[str], seed: int = 0) -> None:
        self.ids = tuple(ids)
        self.seed = seed

    def normal(self, name: str, *shape: int) -> Tensor:
        """(B, *shape) float32 on the CPU."""
        import torch

        rows = [self._stream(i, name).standard_normal(shape, dtype=np.float32) for i in self.ids]
        return torch.from_numpy(np.stack(rows)) if rows else torch.empty(0, *shape)

    def _stream(self, sample: str, name: str) -> np.random.Generator:
        digest = hashlib.sha256(f"{self.seed}\0{sample}\0{name}".encode()).digest()
        return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))


class ZeroNoise:
    """Zeros wherever noise is asked for; a leading 1 stands for any batch size (it broadcasts)."""

    def normal(self, name: str, *shape: int) -> Tensor:
        """(1, *shape) float32 zeros."""
        import torch

        return torch.zeros(1, *shape)


class GivenNoise:
    """Given tensors by name, each (B, *shape); a name that was not given is an error."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        self.values = dict(values)

    def normal(self, name: str, *shape: int) -> Tensor:
        """The tensor given for ``name``.

        Raises:
            UserError: none was given, or its shape is not (B, *shape).
        """
        if name not in self.values:
            raise UserError(
                f"no noise was given for '{name}'", f"given: {', '.join(self.values) or 'none'}"
            )
        value = self.values[name]
        if tuple(value.shape[1:]) != shape:
            raise UserError(f"noise '{name}' must be (B, *{shape}), got {tuple(value.shape)}")
        return value
