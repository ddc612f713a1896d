"""The contract of an identity network, and the boxes that it crops to."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from sisbench.core.errors import UserError
from sisbench.segmenters.base import check_images
from sisbench.segmenters.loading import Loadable


class Identity(Loadable):
    """Photographs in, embeddings out; two of one identity have a high cosine.

    Class attributes:
        name, title, paper: registry name, name in tables, source.
        dim: length of an embedding.
        fixed: facts of the network that a configuration may repeat as options; checked, not used.
        version: raised whenever the same weights would give another embedding.
    """

    title: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    dim: ClassVar[int] = 0
    fixed: ClassVar[Mapping[str, object]] = {}
    version: ClassVar[int] = 1

    def __init__(self, **options: Any) -> None:
        self.options = options

    @torch.inference_mode()
    def embed(self, images: Tensor, boxes: Tensor | None = None) -> Tensor:
        """Embeddings (B, dim) float32; each depends on its own image and box alone.

        Args:
            images: (B, 3, H, W) uint8 RGB.
            boxes: (B, 4) integers top, bottom, left, right, the ends exclusive; None takes whole
                images.

        Raises:
            UserError: other images or boxes, or no weights loaded.
        """
        check_images(images, self.name)
        self.loaded()
        if boxes is not None:
            boxes = _checked(boxes, images, self.name)
        return self.embeddings(images.to(self.device), boxes)

    @abstractmethod
    def embeddings(self, images: Tensor, boxes: Tensor | None) -> Tensor:
        """The embeddings for checked images on the network's device; boxes are on the CPU."""

    def fingerprint(self) -> str:
        """Hash of weights, options and code version."""
        self.loaded()
        facts = [self.name, self.version, self.options, self.weights_info["sha256"]]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _checked(boxes: Tensor, images: Tensor, owner: str) -> Tensor:
    if boxes.shape != (len(images), 4) or boxes.is_floating_point() or boxes.dtype == torch.bool:
        raise UserError(
            f"{owner}: boxes must be ({len(images)}, 4) integers, "
            f"got {tuple(boxes.shape)} {boxes.dtype}",
            "a row is top, bottom, left, right, the ends exclusive",
        )
    boxes = boxes.cpu().long()
    top, bottom, left, right = boxes.unbind(1)
    height, width = images.shape[-2:]
    inside = (top >= 0) & (top < bottom) & (bottom <= height)
    inside &= (left >= 0) & (left < right) & (right <= width)
    if not bool(inside.all()):
        row = int(torch.nonzero(~inside)[0])
        raise UserError(
            f"{owner}: box {boxes[row].tolist()} is empty or leaves the {height} x {width} image",
            "a row is top, bottom, left, right, the ends exclusive",
        )
    return boxes


def subject_boxes(label: Tensor, background: Collection[int] = (0,)) -> Tensor:
    """Tight boxes of all pixels that are no background, the whole frame where there is none.

    Args:
        label: (B, H, W) integer class ids; negative ones (holes) count as background.
        background: class ids that are no part of the subject.

    Returns:
        (B, 4) int64 top, bottom, left, right, the ends exclusive.

    Source: SCAM, arXiv:2210.04883, evaluation code (one background class, 0).
    """
    ids = torch.tensor(sorted(background), dtype=label.dtype, device=label.device)
    subject = ~torch.isin(label, ids) & (label >= 0)
    top, bottom = _extent(subject.any(2))
    left, right = _extent(subject.any(1))
    return torch.stack([top, bottom, left, right], 1)


def _extent(used: Tensor) -> tuple[Tensor, Tensor]:
    """First set position and last one + 1 of every row of (B, n) bool; all of it where none is."""
    n = used.shape[1]
    first = used.int().argmax(1)  # 0 where none is set
    last = n - used.flip(1).int().argmax(1)  # n where none is set
    return first, last
