"""A metric is map + reduce over rows: one row a sample, one score a set. No torch at import."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from sisbench.core.errors import Unavailable, UserError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from torch import Tensor

    from sisbench.core.estimates import Estimate
    from sisbench.core.label_space import LabelSpace

Rows = Mapping[str, "np.ndarray"]
"""Column name -> (n, ...) array; row i belongs to sample id i of the set."""

PICTURES = ("image", "target", "reference", "original", "photograph")
"""Fields of ``ImageBatch`` that are (B, 3, H, W) uint8."""


@dataclass(frozen=True)
class Context:
    """All that a row maker or a metric may know of its surroundings, as plain values.

    Attributes:
        fid: preprocessing of Inception ("tf1", "clean", "pytorch_fid").
        dtype: precision of feature networks ("float32", "bf16").
        ssim: window of SSIM ("gauss11", "uniform7").
        parser: registry name of the parser, or "".
        space: label space of the data set, or None.
        device: torch device; compile: run feature networks through torch.compile.
        weights: given files by name of the weights registry; others are the registered ones.
    """

    fid: str = "tf1"
    dtype: str = "float32"
    ssim: str = "gauss11"
    parser: str = ""
    space: LabelSpace | None = None
    device: str = "cpu"
    compile: bool = False
    weights: Mapping[str, str | Path] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class ImageBatch:
    """What a row maker sees: 8-bit images, each decoded once for all of them, and only the fields
    that a maker needs or uses; every other one is None.

    Attributes:
        ids: sample ids.
        image: (B, 3, H, W) uint8: generated images, or real ones when a reference set is mapped.
        target: (B, 3, H, W) uint8 photographs that the images are compared with pair by pair; None
            where there is no paired truth (a transfer on a data set without one).
        label: (B, H, W) int64, the label map that was drawn; -1 marks holes.
        reference: (B, 3, H, W) uint8 style references, or None.
        classes: (B, C) bool, the classes that were edited, or None.
        space: label space of ``label``.
        reference_label: (B, H, W) int64, label map of ``reference``, or None.
        target_label: (B, H, W) int64, the target's own label map, or None.
        original: (B, 3, H, W) uint8, the method's own image of the target before an edit, or None.
        photograph: (B, 3, H, W) uint8, the target's own photograph, whatever the task, or None.
        siblings: (B, K - 1, 3, H, W) uint8, the other images of the same label map where a task
            draws K of them, or None.
    """

    ids: Sequence[str]
    image: Tensor | None
    target: Tensor | None
    label: Tensor | None
    reference: Tensor | None
    classes: Tensor | None
    space: LabelSpace
    reference_label: Tensor | None = None
    target_label: Tensor | None = None
    original: Tensor | None = None
    photograph: Tensor | None = None
    siblings: Tensor | None = None

    def the(self, name: str) -> Tensor:
        """A field that must be there.

        Raises:
            Unavailable: it is None.
        """
        found: Tensor | None = getattr(self, name)
        if found is None:
            raise Unavailable(f"this task has no {name}", "leave the score out for this task")
        return found


class RowMaker(ABC):
    """The map half: turns images into rows. Several metrics share one (FID and KID: Inception).

    Class attributes:
        name: as ``inception``; rows are stored under it.
        needs: the fields of ``ImageBatch`` that are read and must not be None ("image", "target",
            ...); nothing else is decoded.
        uses: further fields that are read where a task has them.
        weights: name of its file in the weights registry, or "".
        bundled: its file where that comes with sisbench, or "".
        uses_parser: its rows depend on a parser; each parser of a run gives a column of its own.
        resize: what becomes of the images before the network, or that by the value of the
            protocol's field ``resize_field``.
        label_map: which label map a parser's reading is compared with.
        sha256, preprocess, dtype: facts of its network, or ""; captions print them.
    """

    name: ClassVar[str] = ""
    needs: ClassVar[frozenset[str]] = frozenset({"image"})
    uses: ClassVar[frozenset[str]] = frozenset()
    weights: ClassVar[str] = ""
    bundled: ClassVar[str] = ""
    uses_parser: ClassVar[bool] = False
    resize: ClassVar[str | Mapping[str, str]] = "none: images at their own size"
    resize_field: ClassVar[str] = ""
    label_map: ClassVar[str] = ""
    sha256: str = ""
    preprocess: str = ""
    dtype: str = "float32"

    @classmethod
    def from_context(cls, context: Context) -> Self:
        """The maker as the protocol, the configuration and the device want it.

        Raises:
            Unavailable: weights or a parser that it needs are not here.
        """
        return cls()

    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of all that changes a row: weights sha256, preprocessing, dtype, code version."""

    @abstractmethod
    def rows(self, batch: ImageBatch) -> dict[str, np.ndarray]:
        """One row a sample: column -> (B, ...); it depends on that sample alone."""

    def basis(self, size: tuple[int, int]) -> dict[str, str]:
        """What rows of images of (H, W) rest on, for captions: keys of ``core.store.BASIS``."""
        if not self.sha256:
            return {}
        parts = (self.name, f"sha256 {self.sha256[:12]}", self.preprocess, self.dtype)
        return {"extractor": " ".join(part for part in parts if part)}

    def check(self, batch: ImageBatch) -> None:
        """Refuse a batch that does not have what this maker needs.

        Raises:
            Unavailable: a needed field is None.
            UserError: images are not (B, 3, H, W) uint8.
        """
        absent = sorted(field for field in self.needs if getattr(batch, field) is None)
        if absent:
            raise Unavailable(
                f"{self.name} needs {', '.join(absent)}, and this task has none",
                "the score is not defined here; leave it out for this task",
            )
        for name in PICTURES:
            value = getattr(batch, name)
            if value is not None and (
                value.ndim != 4 or value.shape[1] != 3 or str(value.dtype) != "torch.uint8"
            ):
                raise UserError(
                    f"{self.name}: {name} must be (B, 3, H, W) uint8, "
                    f"got {tuple(value.shape)} {value.dtype}",
                    "quantise once, by rounding, before scoring",
                )


@dataclass(frozen=True)
class Score:
    """What a metric says of a set.

    Attributes:
        value: in the metric's unit.
        n: generated samples that entered; n_real: real ones, None where no real set is used.
        se: standard error of sampling; ci: 95 % interval. None where not defined or, as for one
            image, not known.
        per_class: class name -> value (NaN where undefined).
        extra: further named values (other conventions, counts), JSON-able.
        marks: remarks that must be printed with the score, as "indicative".
        values: (n,) one value an item whose mean is ``value``: the values themselves for a mean
            over images, jackknife pseudo-values for a score of the set; None where there are none.
            Their differences compare two methods on the same items.
    """

    value: float
    n: int
    n_real: int | None = None
    se: float | None = None
    ci: tuple[float, float] | None = None
    per_class: Mapping[str, float] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    marks: tuple[str, ...] = ()
    values: np.ndarray | None = field(default=None, compare=False, repr=False)


def of_mean(estimate: Estimate, values: np.ndarray, extra: Mapping[str, Any]) -> Score:
    """The score that is the mean of (n,) values."""
    value, se, ci = estimate
    return Score(value, len(values), se=se, ci=ci, extra=extra, values=values)


class Metric(ABC):
    """The reduce half: rows of a set (and of a real set) to a score.

    Class attributes:
        name, title: registry name, name in tables (with the unit's sign where it has one).
        direction: "up" (higher is better) or "down".
        bounds: (lowest, highest) possible value in ``unit``; None is open.
        unit: "" | "%" | "dB" | "s" | ...; ``scale`` turns a stored value into what tables print.
        digits: decimals in tables.
        maker: row maker: its name, or the class itself; "" where no image is looked at.
        layout_maker: row maker of a layout editor's label maps, or "" where that has no meaning.
        columns: columns of the run's item records that enter the rows, beside the maker's.
        real: "" (no real set), "test" or "train": default reference set; a protocol may
            say otherwise.
        tasks: tasks for which the score is defined.
        source: paper and section.
        kind: "quality", of images; or "machine", of the machine that made them (timing.csv).
        on_request: left out of tables unless it is asked for by name.
        shown_where: protocol field -> the value under which it is shown unasked ({}: under all).
        protocol_fields: fields of a protocol that its value depends on, beyond those of images.
        convention_field: protocol field that names which of ``extra`` is the value, or "".
        convention: the name of the value itself, as "miou_dataset_union"; captions print it.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    direction: ClassVar[str] = "down"
    bounds: ClassVar[tuple[float | None, float | None]] = (None, None)
    unit: ClassVar[str] = ""
    scale: ClassVar[float] = 1.0
    digits: ClassVar[int] = 2
    maker: ClassVar[str | type[RowMaker]] = ""
    layout_maker: ClassVar[str | type[RowMaker]] = ""
    columns: ClassVar[tuple[str, ...]] = ()
    real: ClassVar[str] = ""
    tasks: ClassVar[tuple[str, ...]] = ("reconstruct",)
    source: ClassVar[str] = ""
    kind: ClassVar[Literal["quality", "machine"]] = "quality"
    on_request: ClassVar[bool] = False
    shown_where: ClassVar[Mapping[str, str]] = {}
    protocol_fields: ClassVar[tuple[str, ...]] = ()
    convention_field: ClassVar[str] = ""
    convention: ClassVar[str] = ""

    def __init__(self, **options: Any) -> None:
        self.options = options

    @classmethod
    def from_context(cls, context: Context) -> Self:
        """The metric as a run uses it."""
        return cls()

    def values_under(self, convention: str, rows: Rows) -> np.ndarray | None:
        """``Score.values`` where another convention of ``Score.extra`` is the value; None where
        they are not known."""
        return None

    @abstractmethod
    def reduce(self, rows: Rows, real: Rows | None = None, *, seed: int = 0) -> Score:
        """The score of ``rows``; ``real`` are the reference set's rows for set-level distances."""
