"""Locality of edits: how much an edit changes inside and outside of what was edited."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import numpy as np

from sisbench.core.errors import UserError
from sisbench.core.estimates import bootstrap_mean
from sisbench.core.label_space import LabelSpace
from sisbench.metrics.base import Context, ImageBatch, Metric, RowMaker, Rows, Score
from sisbench.metrics.extractors import code_hash

if TYPE_CHECKING:
    from torch import Tensor


class LocalityRows(RowMaker):
    """Mean absolute difference between an edited image and the method's own unedited one, inside
    and outside of the edited classes (of the drawn and of the target's label map).

    The unedited image is the method's reconstruction of the target, so that what it cannot
    reconstruct does not count as a leak.

    Args:
        device: where the differences are taken.

    Rows: ``inside``, ``outside`` (B,) float64 in [0, 1], NaN where there is no such pixel;
    ``leak`` and ``pixels`` (B, C): sum of the differences and pixels outside, by class drawn.
    """

    name = "locality"
    needs = frozenset({"image", "original", "classes", "label"})
    uses = frozenset({"target_label"})

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    @classmethod
    def from_context(cls, context: Context) -> Self:
        return cls(context.device)

    def fingerprint(self) -> str:
        return code_hash(self.name, 1)

    def rows(self, batch: ImageBatch) -> dict[str, np.ndarray]:
        import torch

        self.check(batch)
        image, original, label, classes = (
            batch.the(name).to(self.device) for name in ("image", "original", "label", "classes")
        )
        if image.shape != original.shape:
            raise UserError(
                f"locality: images are {tuple(image.shape)}, originals {tuple(original.shape)}"
            )
        delta = (image.to(torch.int16) - original.to(torch.int16)).abs().sum(dim=1).double() / 765
        region = _of_classes(label, classes)
        if batch.target_label is not None:
            region |= _of_classes(batch.target_label.to(self.device), classes)
        c = classes.shape[1]
        slot = torch.where(region | (label < 0), c, label).flatten(1)  # c: inside, or a hole
        leak = delta.new_zeros(len(image), c + 1).scatter_add_(1, slot, delta.flatten(1))
        ones = torch.ones_like(slot)
        pixels = slot.new_zeros(len(image), c + 1).scatter_add_(1, slot, ones)
        return {
            "inside": _masked_mean(delta, region),
            "outside": _masked_mean(delta, ~region),
            "leak": leak[:, :c].float().cpu().numpy(),
            "pixels": pixels[:, :c].cpu().numpy(),
        }


def _of_classes(label: Tensor, classes: Tensor) -> Tensor:
    """(B, H, W) bool: pixels whose class is one of (B, C); a hole is of none."""
    found = classes.gather(1, label.clamp(min=0).flatten(1)).view(label.shape)
    return found & (label >= 0)


def _masked_mean(values: Tensor, where: Tensor) -> np.ndarray:
    total, count = (values * where).sum(dim=(1, 2)), where.sum(dim=(1, 2))
    mean: np.ndarray = (total / count).cpu().numpy()  # 0 / 0 is NaN: no such pixel
    return mean


class Locality(Metric):
    """Mean absolute change outside of the edited classes, mean over images, in [0, 1].

    For every edit, |edited - unedited| is averaged over the pixels that belong to no edited class.
    Lower is more local; 0 when an edit touches nothing else. ``extra``: the same inside, and
    outside / inside; ``per_class``: where the leak falls, by class.

    Rows: ``inside``, ``outside`` (n,), ``leak``, ``pixels`` (n, C).

    Args:
        space: label space, for class names.

    Source: Fontanini et al. (CA2-SIS), IEEE Access, Fig. 14 (there as a heat map).

    >>> rows = {"inside": np.array([0.5]), "outside": np.array([0.1]),
    ...         "leak": np.array([[0.4, 0.0]]), "pixels": np.array([[4, 0]])}
    >>> score = Locality().reduce(rows)
    >>> score.value, round(score.per_class["0"], 3)
    (0.1, 0.1)
    """

    name = "locality"
    title = "L1 outside"
    direction = "down"
    bounds = (0.0, 1.0)
    digits = 4
    maker = "locality"
    tasks = ("class_transfer", "shape_transfer", "mixed")
    source = "Fontanini et al. (CA2-SIS), IEEE Access, Fig. 14"

    def __init__(self, space: LabelSpace | str | None = None) -> None:
        super().__init__(space=space)
        self.space = LabelSpace.named(space) if isinstance(space, str) else space

    @classmethod
    def from_context(cls, context: Context) -> Self:
        return cls(context.space)

    def reduce(self, rows: Rows, real: Rows | None = None, *, seed: int = 0) -> Score:
        outside, inside = rows["outside"], rows["inside"]
        defined = np.isfinite(outside) & np.isfinite(inside)
        if not defined.any():
            raise UserError(
                f"locality: none of {len(outside)} edits has pixels inside and outside",
                "the edited classes are absent from every image",
            )
        estimate = bootstrap_mean(outside[defined], seed=seed)
        within = float(inside[defined].mean())
        leak, pixels = rows["leak"].sum(0, dtype=np.float64), rows["pixels"].sum(0)
        by_class = np.divide(leak, pixels, out=np.full(len(leak), np.nan), where=pixels > 0)
        names = self.space.classes if self.space else tuple(map(str, range(len(leak))))
        extra = {"inside": within, "undefined": int(np.sum(~defined))}
        if within > 0:
            extra["outside_over_inside"] = estimate.value / within
        return Score(
            value=estimate.value,
            n=int(defined.sum()),
            se=estimate.se,
            ci=estimate.ci,
            per_class={n: float(v) for n, v in zip(names, by_class, strict=True)},
            extra=extra,
            values=outside if np.isfinite(outside).all() else None,
        )
