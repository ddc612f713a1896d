"""Perceptual distances: mean absolute differences of a fixed network's features."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sisbench.core.fit import require_fit

LEVELS = 5
"""Depths at which features are compared."""
SPADE_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
"""Weights of the five depths (Park et al. 2019 and most that follow it)."""

VGG_STAGES = (0, 2, 7, 12, 21, 30)
"""Where relu1_1 ... relu5_1 end in torchvision's vgg19 ``features``."""
VGG_WIDTHS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512, 0, 512)
"""Output channels of the convolutions up to relu5_1; 0 is a pooling."""


class Perceptual(nn.Module):
    """A fixed network whose features are compared at five depths.

    Class attributes:
        name: as a recipe and the provenance of weights name it.
    """

    name: ClassVar[str] = ""

    @abstractmethod
    def features(self, image: Tensor) -> Sequence[Tensor]:
        """image (B, 3, H, W) in [-1, 1] -> the features of the five depths."""

    def distances(self, fake: Tensor, real: Tensor) -> Tensor:
        """(5,) mean absolute differences; fake and real (B, 3, H, W) in [-1, 1], real is fixed."""
        with torch.no_grad():
            fixed = self.features(real)
        moving = self.features(fake)
        return torch.stack([F.l1_loss(a, b) for a, b in zip(moving, fixed, strict=True)])

    def forward(
        self, fake: Tensor, real: Tensor, weights: Sequence[float] = SPADE_WEIGHTS
    ) -> Tensor:
        """The weighted sum of ``distances``."""
        found = self.distances(fake, real)
        return (found * found.new_tensor(weights)).sum()


class Vgg19(Perceptual):
    """VGG-19, relu1_1 to relu5_1, without ImageNet's normalisation, as in the official codes.

    Args:
        state: parameters of torchvision's vgg19 (``features.<i>.weight`` and ``.bias``).
        where: the file, for messages.

    Raises:
        UserError: a parameter is missing or has another shape.
    """

    name = "vgg19"

    def __init__(self, state: Mapping[str, Tensor], where: str) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width in VGG_WIDTHS:
            if width:
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
                before = width
            else:
                layers.append(nn.MaxPool2d(2))
        self.stages = nn.Sequential(*layers)
        wanted = {f"features.{k}": tuple(v.shape) for k, v in self.stages.state_dict().items()}
        require_fit(state, wanted, where, may_hold=lambda key: True)
        self.stages.load_state_dict({k.removeprefix("features."): state[k] for k in wanted})
        self.requires_grad_(False)

    def features(self, image: Tensor) -> list[Tensor]:
        """As ``Perceptual.features``."""
        found = []
        for begin, end in pairwise(VGG_STAGES):
            image = self.stages[begin:end](image)
            found.append(image)
        return found
