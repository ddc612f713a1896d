"""Losses of the SPADE family (Park et al. 2019, section 3 and appendix A)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sisbench.core.errors import UserError

Predictions = Sequence[Sequence[Tensor]]
"""For each scale: features, then logits."""

VGG_STAGES = (0, 2, 7, 12, 21, 30)
"""Where relu1_1 ... relu5_1 end in torchvision's vgg19 ``features``."""
VGG_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
VGG_WIDTHS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512, 0, 512)
"""Output channels of the convolutions up to relu5_1; 0 is a pooling."""


def hinge_generator(fake: Predictions) -> Tensor:
    """-mean(logits), averaged over scales."""
    return torch.stack([-scale[-1].mean() for scale in fake]).mean()


def hinge_discriminator(fake: Predictions, real: Predictions) -> Tensor:
    """mean(relu(1 + fake)) + mean(relu(1 - real)), averaged over scales."""
    terms = [
        F.relu(1 + f[-1]).mean() + F.relu(1 - r[-1]).mean() for f, r in zip(fake, real, strict=True)
    ]
    return torch.stack(terms).mean()


def feature_matching(fake: Predictions, real: Predictions) -> Tensor:
    """Sum over stages of the mean absolute difference, averaged over scales; real is fixed."""
    terms = [
        F.l1_loss(a, b.detach())
        for f, r in zip(fake, real, strict=True)
        for a, b in zip(f[:-1], r[:-1], strict=True)
    ]
    return torch.stack(terms).sum() / len(fake)


def kl_to_prior(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, exp(logvar)) || N(0, 1)), summed over dimensions *and over the batch*, as in the
    official code: its weight grows with the batch."""
    return -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum()


class Perceptual(nn.Module):
    """Weighted mean absolute differences of VGG-19 features, relu1_1 to relu5_1, of pictures in
    [-1, 1] (without ImageNet's normalisation, as in the official code).

    Args:
        state: parameters of torchvision's vgg19 (``features.<i>.weight`` and ``.bias``).

    Raises:
        UserError: a parameter is missing or has another shape.
    """

    def __init__(self, state: dict[str, Tensor], where: str) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width in VGG_WIDTHS:
            if width:
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
                before = width
            else:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        wanted = self.state_dict()
        wrong = [k for k, v in wanted.items() if k not in state or state[k].shape != v.shape]
        if wrong:
            raise UserError(
                f"{where} does not hold torchvision's vgg19: {', '.join(wrong[:4])}",
                "give vgg19-*.pth as torchvision distributes it",
            )
        self.load_state_dict({k: state[k] for k in wanted})
        self.requires_grad_(False)

    @staticmethod
    def read(path: Path) -> Perceptual:
        """From torchvision's file.

        Raises:
            UserError: no such file, or it holds another network.
        """
        from sisbench.core.state_dict import read_state

        return Perceptual(read_state(path), str(path))

    def forward(self, fake: Tensor, real: Tensor) -> Tensor:
        """fake and real (B, 3, H, W) in [-1, 1]; real is fixed."""
        total = fake.new_zeros(())
        for (begin, end), weight in zip(pairwise(VGG_STAGES), VGG_WEIGHTS, strict=True):
            stage = self.features[begin:end]
            fake = stage(fake)
            with torch.no_grad():
                real = stage(real)
            total = total + weight * F.l1_loss(fake, real)
        return total
