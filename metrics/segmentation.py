"""Agreement of a parser's label maps with the drawn ones: mIoU and accuracy in every convention."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from sisbench.core.errors import UserError
from sisbench.core.estimates import bootstrap_confusion
from sisbench.core.label_space import LabelSpace
from sisbench.core.tasks import method_tasks
from sisbench.metrics.base import Context, Metric, Rows, Score

MIOU = "miou_dataset_union"
ACCURACY = "acc_pixel_dataset"
_TASKS = tuple(task.name for task in method_tasks() if task.variants != "alphas")


def _iou(tp: np.ndarray, truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """IoU of every class, NaN where the union is empty; any leading shape."""
    union = truth + found - tp
    return np.divide(tp, union, out=np.full(np.shape(union), np.nan), where=union > 0)


def _mean(values: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
    """Mean over the last axis of what is not NaN (and ``where``); NaN where nothing is left."""
    keep = np.isfinite(values) if where is None else np.isfinite(values) & where
    total, count = np.where(keep, values, 0).sum(-1), keep.sum(-1)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def conventions(
    confusion: np.ndarray, ignored: np.ndarray, ignore: int | None = None
) -> dict[str, float]:
    """Every named convention of mIoU and accuracy from the confusions of single images.

    Args:
        confusion: (n, K, K) counts, rows = truth; ignored: (n, K) predictions at left-out pixels.
        ignore: class id that is the ignore label itself (ADE20K's 0): no class of the means.

    Returns:
        name -> value in [0, 1]; NaN where undefined. Names: ``miou_dataset_*`` pool all pixels,
        ``miou_image_*`` average over images; ``_union`` counts classes in truth or prediction,
        ``_gt`` those in the truth, ``_absent0`` / ``_absent1`` undefined ones as 0 / 1, ``_nobg``
        leaves class 0 out.
    """
    keep = np.arange(confusion.shape[1]) != (-1 if ignore is None else ignore)
    tp = np.diagonal(confusion, axis1=1, axis2=2).astype(np.float64)  # (n, K)
    truth, found = confusion.sum(2, dtype=np.float64), confusion.sum(1, dtype=np.float64)
    pooled_tp, pooled_truth, pooled_found = tp.sum(0), truth.sum(0), found.sum(0)
    each = np.where(keep, _iou(tp, truth, found), np.nan)
    whole = np.where(keep, _iou(pooled_tp, pooled_truth, pooled_found), np.nan)
    as_fp = np.where(keep, _iou(pooled_tp, pooled_truth, pooled_found + ignored.sum(0)), np.nan)
    no_background = np.arange(len(whole)) != 0
    valid, every = truth.sum(), truth.sum() + float(ignored.sum())
    recall = np.divide(
        pooled_tp, pooled_truth, out=np.full(len(whole), np.nan), where=pooled_truth > 0
    )
    share = np.divide(tp.sum(1), truth.sum(1), out=np.full(len(tp), np.nan), where=truth.sum(1) > 0)
    values = {
        "miou_dataset_union": _mean(whole),
        "miou_dataset_all_absent0": np.nan_to_num(whole[keep]).mean(),
        "miou_dataset_gt": _mean(whole, pooled_truth > 0),
        "miou_dataset_union_nobg": _mean(whole, no_background),
        "miou_image_union": _mean(_mean(each)),
        "miou_image_gt": _mean(_mean(each, truth > 0)),
        "miou_image_absent1": np.nan_to_num(each[:, keep], nan=1.0).mean(),
        "miou_image_absent0": np.nan_to_num(each[:, keep]).mean(),
        "miou_image_union_nobg": _mean(_mean(each, no_background)),
        "miou_pooled_pairs": _mean(each.reshape(-1)),
        "miou_dataset_union_ignored_as_fp": _mean(as_fp),
        "acc_pixel_dataset": pooled_tp.sum() / valid if valid else np.nan,
        "acc_pixel_image_mean": _mean(share),
        "acc_pixel_ignored_as_wrong": pooled_tp.sum() / every if every else np.nan,
        "acc_class_mean_gt": _mean(np.where(keep, recall, np.nan)),
        "fwiou": float(np.nansum(pooled_truth * np.nan_to_num(whole)) / valid) if valid else np.nan,
    }
    return {name: float(value) for name, value in values.items()}


def _pooled(
    name: str,
    tp: np.ndarray,
    truth: np.ndarray,
    found: np.ndarray,
    ignored: np.ndarray,
    keep: np.ndarray,
) -> np.ndarray:
    """A convention of ``conventions`` of (..., K) pooled counts -> (...)."""
    iou = np.where(keep, _iou(tp, truth, found), np.nan)
    valid = truth.sum(-1)
    if name == "miou_dataset_all_absent0":
        return np.asarray(np.nan_to_num(iou[..., keep]).mean(-1))
    if name == "miou_dataset_gt":
        return _mean(iou, truth > 0)
    if name == "miou_dataset_union_nobg":
        return _mean(iou, np.arange(len(keep)) != 0)
    if name == "miou_dataset_union_ignored_as_fp":
        return _mean(np.where(keep, _iou(tp, truth, found + ignored), np.nan))
    if name == "acc_pixel_dataset":
        return np.asarray(tp.sum(-1) / valid)
    if name == "acc_pixel_ignored_as_wrong":
        return np.asarray(tp.sum(-1) / (valid + ignored.sum(-1)))
    if name == "acc_class_mean_gt":
        recall = np.divide(tp, truth, out=np.full(np.shape(tp), np.nan), where=truth > 0)
        return _mean(np.where(keep, recall, np.nan))
    if name == "fwiou":
        return np.asarray((truth * np.nan_to_num(iou)).sum(-1) / valid)
    return _mean(iou)


def _of_images(
    name: str, tp: np.ndarray, truth: np.ndarray, found: np.ndarray, keep: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """(sum, count) of each image for a convention that is a mean over images, or over pairs of
    image and class, of (n, K) counts; None for one of pooled pixels."""
    each = np.where(keep, _iou(tp, truth, found), np.nan)
    if name == "miou_pooled_pairs":
        return np.nansum(each, 1), np.isfinite(each).sum(1).astype(np.float64)
    values = {
        "miou_image_union": lambda: _mean(each),
        "miou_image_gt": lambda: _mean(each, truth > 0),
        "miou_image_absent1": lambda: np.nan_to_num(each[:, keep], nan=1.0).mean(1),
        "miou_image_absent0": lambda: np.nan_to_num(each[:, keep]).mean(1),
        "miou_image_union_nobg": lambda: _mean(each, np.arange(len(keep)) != 0),
        "acc_pixel_image_mean": lambda: (
            tp.sum(1) / np.where(truth.sum(1) > 0, truth.sum(1), np.nan)
        ),
    }.get(name)
    if values is None:
        return None
    known = values()
    return np.nan_to_num(known), np.isfinite(known).astype(np.float64)


def values_under(
    name: str, confusion: np.ndarray, ignored: np.ndarray, ignore: int | None = None
) -> np.ndarray | None:
    """(n,) values an image whose mean is a convention of ``conventions``: pseudo-values of the
    jackknife, about the convention's value; for a mean over images the values themselves. None
    where one image less leaves it undefined.

    Args:
        name, confusion, ignored, ignore: as of ``conventions``.
    """
    keep = np.arange(confusion.shape[1]) != (-1 if ignore is None else ignore)
    tp = np.diagonal(confusion, axis1=1, axis2=2).astype(np.float64)  # (n, K)
    truth, found = confusion.sum(2, dtype=np.float64), confusion.sum(1, dtype=np.float64)
    n = len(confusion)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = _of_images(name, tp, truth, found, keep)
        if mean is not None:
            total, count = mean
            value = total.sum() / count.sum()
            values = value + n * (total - value * count) / count.sum()
        else:
            parts = (tp, truth, found, ignored.astype(np.float64))
            a, b, c, d = (part.sum(0) for part in parts)
            value = _pooled(name, a, b, c, d, keep)
            a, b, c, d = (x - y for x, y in zip((a, b, c, d), parts))
            without = _pooled(name, a, b, c, d, keep)
            values = n * value - (n - 1) * without
            values += value - values.mean()
    return values if np.isfinite(values).all() else None


class _FromConfusion(Metric):
    """What the three scores share: one confusion, a label space, every convention in ``extra``."""

    direction = "up"
    bounds = (0.0, 100.0)
    unit = "%"
    scale = 100.0
    digits = 2
    maker = "confusion"
    layout_maker = "layout"
    protocol_fields = ("parsers", "miou", "accuracy")
    tasks = _TASKS

    def __init__(self, space: LabelSpace | str | None = None) -> None:
        super().__init__(space=space)
        self.space = LabelSpace.named(space) if isinstance(space, str) else space

    @classmethod
    def from_context(cls, context: Context) -> Self:
        return cls(context.space)

    def reduce(self, rows: Rows, real: Rows | None = None, *, seed: int = 0) -> Score:
        confusion, ignored = rows["confusion"], rows["ignored"]
        k = confusion.shape[1]
        if self.space is not None and len(self.space) != k:
            raise UserError(
                f"{self.name}: confusions of {k} classes, '{self.space.name}' has {len(self.space)}"
            )
        ignore = None if self.space is None else self.space.ignore
        keep = np.arange(k) != (-1 if ignore is None else ignore)
        estimate = bootstrap_confusion(
            confusion, lambda t, g, p: self._value(t, g, p, keep), seed=seed
        )
        named = conventions(confusion, ignored, ignore)
        per_class, extra = self._details(confusion, ignored, keep)
        extra |= {name: value for name, value in named.items() if np.isfinite(value)}
        return Score(
            value=named[self.convention],
            n=len(confusion),
            se=estimate.se,
            ci=estimate.ci,
            per_class=per_class,
            extra=extra,
            values=self._pseudo_values(confusion, keep),
        )

    def values_under(self, convention: str, rows: Rows) -> np.ndarray | None:
        ignore = None if self.space is None else self.space.ignore
        return values_under(convention, rows["confusion"], rows["ignored"], ignore)

    def _value(
        self, tp: np.ndarray, truth: np.ndarray, found: np.ndarray, keep: np.ndarray
    ) -> np.ndarray:
        return _mean(np.where(keep, _iou(tp, truth, found), np.nan))

    def _pseudo_values(self, confusion: np.ndarray, keep: np.ndarray) -> np.ndarray:
        """Infinitesimal-jackknife pseudo-values of the pooled value: the value plus n times its
        derivative by the weight of each image."""
        tp = np.diagonal(confusion, axis1=1, axis2=2).astype(np.float64)  # (n, K)
        truth, found = confusion.sum(2, dtype=np.float64), confusion.sum(1, dtype=np.float64)
        value = float(self._value(tp.sum(0), truth.sum(0), found.sum(0), keep))
        return value + len(tp) * self._derivative(tp, truth, found, keep)

    def _derivative(
        self, tp: np.ndarray, truth: np.ndarray, found: np.ndarray, keep: np.ndarray
    ) -> np.ndarray:
        """(n,) derivative of mean IoU: d(TP/U) = (tp_i U - TP u_i) / U^2, averaged over classes."""
        union = truth + found - tp
        whole = union.sum(0)
        used = (whole > 0) & keep
        change = tp[:, used] * whole[used] - tp.sum(0)[used] * union[:, used]
        return (change / whole[used] ** 2).mean(1)

    def _details(
        self, confusion: np.ndarray, ignored: np.ndarray, keep: np.ndarray
    ) -> tuple[dict[str, float], dict[str, Any]]:
        pooled = confusion.sum(0, dtype=np.int64)
        truth = pooled.sum(1)
        iou = _iou(np.diagonal(pooled).astype(float), truth, pooled.sum(0))
        names = self.space.classes if self.space else tuple(map(str, range(len(iou))))
        left_out = int(ignored.sum())
        valid = int(truth.sum())
        extra = {
            "classes_in_mean": int(np.sum(np.isfinite(iou) & keep)),
            "ignored_share": left_out / max(1, valid + left_out),
            "pixel_share": {
                n: float(t / max(1, valid)) for n, t, k in zip(names, truth, keep) if k
            },
        }
        return {n: float(v) for n, v, k in zip(names, iou, keep) if k}, extra


class MIoU(_FromConfusion):
    """Mean intersection over union of the classes, all pixels of the set pooled.

    IoU_c = TP_c / (G_c + P_c - TP_c) from the summed confusion; mean over classes whose union is
    not empty (``miou_dataset_union``). Every other named convention is in ``extra``. Higher is
    better. Interval: bootstrap over images.

    Rows: ``confusion`` (n, K, K), ``ignored`` (n, K).

    Args:
        space: label space, for class names and for an ignore label that is a class id.

    >>> rows = {"confusion": np.array([[[3, 1], [0, 4]]]), "ignored": np.zeros((1, 2), int)}
    >>> round(MIoU().reduce(rows).value, 4)
    0.775
    """

    name = "miou"
    title = "mIoU"
    convention = MIOU
    convention_field = "miou"
    source = "pooled Jaccard index, macro mean over classes with a non-empty union"


class ClassIoU(_FromConfusion):
    """IoU of every class (``per_class``); its value is their mean, as ``miou``.

    >>> rows = {"confusion": np.array([[[3, 1], [0, 4]]]), "ignored": np.zeros((1, 2), int)}
    >>> ClassIoU().reduce(rows).per_class
    {'0': 0.75, '1': 0.8}
    """

    name = "class_iou"
    title = "IoU by class"
    on_request = True
    convention = MIOU
    source = MIoU.source


class Accuracy(_FromConfusion):
    """Share of valid pixels whose class the parser finds, all pixels of the set pooled.

    Acc = trace(C) / sum(C). Higher is better. Other conventions are in ``extra``;
    ``per_class`` holds IoU.

    >>> rows = {"confusion": np.array([[[3, 1], [0, 4]]]), "ignored": np.zeros((1, 2), int)}
    >>> Accuracy().reduce(rows).value
    0.875
    """

    name = "accuracy"
    title = "Acc"
    convention = ACCURACY
    convention_field = "accuracy"
    source = "pixel accuracy of the MIT scene-parsing evaluation"

    def _value(
        self, tp: np.ndarray, truth: np.ndarray, found: np.ndarray, keep: np.ndarray
    ) -> np.ndarray:
        return tp.sum(-1) / np.maximum(truth.sum(-1), 1)

    def _derivative(
        self, tp: np.ndarray, truth: np.ndarray, found: np.ndarray, keep: np.ndarray
    ) -> np.ndarray:
        total = truth.sum()
        return (tp.sum(1) * total - tp.sum() * truth.sum(1)) / max(total, 1) ** 2
