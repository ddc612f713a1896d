"""What parsers with official weights share: checks, normalisation, fingerprint."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from sisbench.core.errors import UserError
from sisbench.segmenters.base import Segmenter, check_images
from sisbench.segmenters.loading import Loadable

if TYPE_CHECKING:
    from sisbench.core.label_space import LabelSpace

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class NetworkParser(Loadable, Segmenter):
    """A parser whose networks take official weights files.

    Class attributes:
        version: raised whenever the same weights would give another prediction.
    """

    version: ClassVar[int] = 1

    def __init__(self, space: LabelSpace, **options: Any) -> None:
        super().__init__(space, **options)
        if self.spaces and space.name not in self.spaces:
            raise UserError(
                f"{self.name} parses into {', '.join(self.spaces)}, not into '{space.name}'",
                "choose a parser that was trained for this label space",
            )

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 RGB -> (B, h, w) int64 class ids at ``compare_size((H, W))``.

        Raises:
            UserError: not uint8, not (B, 3, H, W), or no weights loaded.
        """
        check_images(images, self.name)
        self.loaded()
        images = images.to(self.device)
        if self.device.type != "cpu" or len(images) < 2:
            return self.predict(images)
        # Feature maps of a batch at 512 x 512 leave a CPU's caches: one by one is up to 1.5 times
        # as fast, and takes a batch's share of the memory.
        return torch.cat([self.predict(image) for image in images.split(1)])

    @abstractmethod
    def predict(self, images: Tensor) -> Tensor:
        """The prediction for checked images on the parser's device."""

    def fingerprint(self) -> str:
        """Hash of weights, options, label space and code version."""
        self.loaded()
        facts = [
            self.name,
            self.version,
            self.space.name,
            self.options,
            self.weights_info["sha256"],
        ]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(..., 3, H, W) uint8 -> float32, (x / 255 - mean) / std."""
    shape = (3, 1, 1)
    offset = torch.tensor(mean, device=images.device).reshape(shape)
    scale = torch.tensor(std, device=images.device).reshape(shape)
    return images.float().div_(255).sub_(offset).div_(scale)
