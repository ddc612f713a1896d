"""A metric is map + reduce over rows: one row a sample, one figure a set. No torch at import."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from sisbench.core.errors import Unavailable, UserError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from sisbench.core.label_space import LabelSpace

Rows = Mapping[str, "np.ndarray"]
"""Column name -> (n, ...) array; row i belongs to sample id i of the set."""


@dataclass(frozen=True)
class ImageBatch:
    """What a row maker sees: 8-bit images, each decoded once for all of them.

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
        target_label: (B, H, W) int64, the target's own label map where ``label`` differs, or None.
        original: (B, 3, H, W) uint8, the method's own image of the target before an edit, or None.
        photograph: (B, 3, H, W) uint8, the target's own photograph, whatever the task, or None.
        siblings: (B, K - 1, 3, H, W) uint8, the other images of the same label map where a task
            draws K of them, or None.
    """

    ids: Sequence[str]
    image: Tensor
    target: Tensor | None
    label: Tensor
    reference: Tensor | None
    classes: Tensor | None
    space: LabelSpace
    reference_label: Tensor | None = None
    target_label: Tensor | None = None
    original: Tensor | None = None
    photograph: Tensor | None = None
    siblings: Tensor | None = None


class RowMaker(ABC):
    """The map half: turns images into rows. Several metrics share one (FID and KID: Inception).

    Class attributes:
        name: as ``inception``; rows are stored under it.
        needs: fields of ``ImageBatch`` that must not be None ("target", "classes", ...).
        weights: name of its file in the weights registry, or "".
        resize: what becomes of the images before the network, by ``preprocess`` where it has one.
    """

    name: ClassVar[str] = ""
    needs: ClassVar[frozenset[str]] = frozenset()
    weights: ClassVar[str] = ""
    resize: ClassVar[str | Mapping[str, str]] = "none: images at their own size"

    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of all that changes a row: weights sha256, preprocessing, dtype, code version."""

    @abstractmethod
    def rows(self, batch: ImageBatch) -> dict[str, np.ndarray]:
        """One row a sample: column -> (B, ...); it depends on that sample alone."""

    def check(self, batch: ImageBatch) -> None:
        """Refuse a batch that lacks what this maker needs.

        Raises:
            Unavailable: a needed field is None.
            UserError: images are not (B, 3, H, W) uint8.
        """
        absent = sorted(field for field in self.needs if getattr(batch, field) is None)
        if absent:
            raise Unavailable(
                f"{self.name} needs {', '.join(absent)}, and this task has none",
                "the figure is not defined here; leave it out for this task",
            )
        for name in ("image", "target", "reference", "original", "photograph"):
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
class Figure:
    """What a metric says of a set.

    Attributes:
        value: in the metric's unit.
        n: generated samples that entered; n_real: real ones, None where no real set is used.
        se: standard error of sampling; ci: 95 % interval. None where not defined.
        per_class: class name -> value (NaN where undefined).
        extra: further named figures (other conventions, counts), JSON-able.
        marks: remarks that must be printed with the figure, as "indicative".
    """

    value: float
    n: int
    n_real: int | None = None
    se: float | None = None
    ci: tuple[float, float] | None = None
    per_class: Mapping[str, float] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    marks: tuple[str, ...] = ()


class Metric(ABC):
    """The reduce half: rows of a set (and of a real set) to a figure.

    Class attributes:
        name, title: registry name, name in tables (with the unit's sign where it has one).
        direction: "up" (higher is better) or "down".
        bounds: (lowest, highest) possible value in ``unit``; None is open.
        unit: "" | "%" | "dB" | "s" | ...; ``scale`` turns a stored value into what tables print.
        digits: decimals in tables.
        maker: row maker's name.
        real: "" (no real set), "test" or "train": default reference set; a protocol may
            say otherwise.
        tasks: tasks for which the figure is defined.
        source: paper and section.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    direction: ClassVar[str] = "down"
    bounds: ClassVar[tuple[float | None, float | None]] = (None, None)
    unit: ClassVar[str] = ""
    scale: ClassVar[float] = 1.0
    digits: ClassVar[int] = 2
    maker: ClassVar[str] = ""
    real: ClassVar[str] = ""
    tasks: ClassVar[tuple[str, ...]] = ("reconstruct",)
    source: ClassVar[str] = ""

    def __init__(self, **options: Any) -> None:
        self.options = options

    @abstractmethod
    def reduce(self, rows: Rows, real: Rows | None = None, *, seed: int = 0) -> Figure:
        """The figure of ``rows``; ``real`` are the reference set's rows for set-level distances."""

    def values(self, rows: Rows, real: Rows | None = None) -> np.ndarray | None:
        """(n,) one value an item whose mean is the figure: the values themselves for a mean over
        images, jackknife pseudo-values for a figure of the set; None where there are none. Their
        differences compare two methods on the same items."""
        return None
