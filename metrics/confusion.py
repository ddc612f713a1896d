"""Confusion matrices an image: what a parser or a layout editor made against the label map."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from sisbench.core.errors import Unavailable, UserError
from sisbench.core.label_space import LabelSpace
from sisbench.metrics.base import Context, ImageBatch, RowMaker
from sisbench.metrics.extractors import code_hash

if TYPE_CHECKING:
    from torch import Tensor

    from sisbench.segmenters.base import Segmenter


def confusion_counts(
    truth: Tensor, prediction: Tensor, classes: int, ignore: int | None
) -> tuple[Tensor, Tensor]:
    """Counts an image, by one bincount.

    Args:
        truth: (B, h, w) int64; -1 (a hole) and ``ignore`` are left out.
        prediction: (B, h, w) int64 in [0, classes).

    Returns:
        (B, K, K) int64, rows = truth; (B, K) int64 predictions at pixels that were left out.

    Raises:
        UserError: a label is out of range.
    """
    import torch

    left_out = truth < 0
    if ignore is not None:
        left_out = left_out | (truth == ignore)
    rows = truth.masked_fill(left_out, classes)  # one more row collects what is left out
    b = len(truth)
    for what, values in (("label map", rows), ("parser", prediction)):
        top = classes if what == "label map" else classes - 1
        if values.numel() and (int(values.min()) < 0 or int(values.max()) > top):
            raise UserError(
                f"{what}: class {int(values.max())} in a space of {classes} classes",
                "the parser and the label map must share one label space",
            )
    image = torch.arange(b, device=truth.device).view(b, 1, 1)
    index = (image * (classes + 1) + rows) * classes + prediction
    counts = torch.bincount(index.flatten(), minlength=b * (classes + 1) * classes)
    counts = counts.view(b, classes + 1, classes)
    return counts[:, :classes], counts[:, classes]


class ConfusionRows(RowMaker):
    """Confusion matrix an image between the drawn label map and what a parser sees in the image.

    The label map is brought to the parser's output size by PIL's nearest rule.

    Args:
        parser: registry name of a segmenter, or a loaded segmenter.
        space: label space; only with a name.
        weights: the parser's file; None takes the registered one.
        device: where the parser runs.

    Rows: ``confusion`` (B, K, K) int32, rows = truth; ``ignored`` (B, K) int32, predictions at
    pixels that are left out (holes and the ignore label).

    Raises:
        Unavailable: the parser's weights are not here.
    """

    name = "confusion"
    resize = "images by the parser's rule, label maps to its size by PIL's nearest rule"
    needs = frozenset({"image", "label"})
    uses_parser = True
    label_map = (
        "the one that was to be drawn: the target's, or what an edit made of it in pixel space "
        "(holes left out); never a segmentation of the network's own"
    )

    def __init__(
        self,
        parser: str | Segmenter,
        space: LabelSpace | str | None = None,
        weights: Path | str | None = None,
        device: str = "cpu",
    ) -> None:
        if isinstance(parser, str):
            from sisbench import segmenters

            if space is None:
                raise UserError(f"confusion: parser '{parser}' needs a label space")
            file = None if weights is None else Path(weights)
            parser = segmenters.create(parser, space).load(file, device)
        self.parser = parser

    @classmethod
    def from_context(cls, context: Context) -> Self:
        if not context.parser:
            named = context.space.name if context.space else "this label space"
            raise Unavailable(f"no parser is known for '{named}'", "name one under 'parsers'")
        given = context.weights.get(context.parser)
        return cls(context.parser, context.space, given, context.device)

    def basis(self, size: tuple[int, int]) -> dict[str, str]:
        return {
            "parser": f"{self.parser.name} {self.parser.fingerprint()[:12]}",
            "resize": "label maps by PIL's nearest rule",
            "compare_at": "x".join(map(str, self.parser.compare_size(size))),
        }

    def fingerprint(self) -> str:
        space = self.parser.space
        return code_hash(
            self.name, 1, self.parser.fingerprint(), space.name, space.classes, space.ignore
        )

    def rows(self, batch: ImageBatch) -> dict[str, np.ndarray]:
        from sisbench.core.resize import resize_labels_pil

        self.check(batch)
        space = self.parser.space
        if batch.space.classes != space.classes:
            raise UserError(
                f"the parser knows '{space.name}' ({len(space)} classes), the label maps are "
                f"'{batch.space.name}' ({len(batch.space)})",
                "choose a parser for this label space",
            )
        found = self.parser(batch.the("image"))
        size = (found.shape[1], found.shape[2])
        label = resize_labels_pil(batch.the("label").to(found.device), size)
        matrix, ignored = confusion_counts(label, found, len(space), space.ignore)
        return {
            "confusion": matrix.cpu().numpy().astype(np.int32),
            "ignored": ignored.cpu().numpy().astype(np.int32),
        }


class LayoutRows(RowMaker):
    """Confusion matrix an image between a label map and what a layout editor made of it.

    Rows: as ``ConfusionRows``; no parser stands in between.

    Source: Fontanini et al. (Semantic-VAE), ICIAP 2023, Table 1.
    """

    name = "layout"
    needs = frozenset({"label", "target_label"})

    def fingerprint(self) -> str:
        return code_hash(self.name, 1)

    def rows(self, batch: ImageBatch) -> dict[str, np.ndarray]:
        self.check(batch)
        space = batch.space
        matrix, ignored = confusion_counts(
            batch.the("target_label"), batch.the("label"), len(space), space.ignore
        )
        return {
            "confusion": matrix.numpy().astype(np.int32),
            "ignored": ignored.numpy().astype(np.int32),
        }
