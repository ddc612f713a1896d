"""LPIPS with VGG16 as a loss: the distance of an image to one target, with gradients.

Source: Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, CVPR
2018, version 0.1 of its weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sisbench.core.fit import fill
from sisbench.core.lpips_files import linear_file
from sisbench.core.state_dict import read_state

SIZE = 256
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_EPS = 1e-10
_CUTS = (0, 4, 9, 16, 23, 30)  # torchvision's ``features`` after which a layer is compared


class Lpips(nn.Module):
    """The trunk and its linear weights; images are brought to 256x256 by adaptive averaging.

    Args:
        trunk: state dict of torchvision's VGG16 (``features.*``; other keys are left out).
        where: what it is called in an error.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, trunk: Mapping[str, Tensor], where: str) -> None:
        super().__init__()
        from torchvision import models

        features = models.vgg16(weights=None).features[: _CUTS[-1]]
        own = {k.removeprefix("features."): v for k, v in trunk.items() if k[:9] == "features."}
        fill(features, own, where)
        for layer in features:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False  # a compared layer is read again by the backward pass
        self.slices = nn.ModuleList(features[a:b] for a, b in itertools.pairwise(_CUTS))
        linear = read_state(linear_file("vgg"))
        for i in range(len(self.slices)):
            weight = linear[f"lin{i}.model.1.weight"].clone()  # (1, C, 1, 1)
            self.register_buffer(f"linear_{i}", weight)
        self.register_buffer("shift", torch.tensor(_SHIFT)[:, None, None])
        self.register_buffer("scale", torch.tensor(_SCALE)[:, None, None])
        self.eval().requires_grad_(False)

    def features(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) about [-1, 1] -> (B, C, h, w) of each layer, of unit length over C."""
        x = (F.adaptive_avg_pool2d(image, SIZE) - self.shift) / self.scale
        found = []
        for part in self.slices:
            x = part(x)
            found.append(x / (_length(x) + _EPS))
        return found

    def forward(self, image: Tensor, target: list[Tensor]) -> Tensor:
        """Distance (B,) of images to what ``features`` gave of their targets."""
        total = image.new_zeros(len(image))
        for i, (a, b) in enumerate(zip(self.features(image), target, strict=True)):
            weighted = (a - b).square() * getattr(self, f"linear_{i}")
            total = total + weighted.sum(1).mean((1, 2))
        return total


def _length(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, 1, h, w) over C; its gradient is 0, not NaN, where all are 0."""
    squares = x.square().sum(1, keepdim=True)
    none = squares == 0
    return squares.masked_fill(none, 1).sqrt().masked_fill(none, 0)
