"""MaskVAE (section 3.3 of the MaskGAN paper): label maps between label maps, for training."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sisbench.core.resize import resize_labels_torch
from sisbench.methods.layers.labels import one_hot
from sisbench.methods.layers.spade import leaky

SIDE = 512
"""Side of the label maps that it takes and gives."""
STEP = 1 / 2.5
"""Share of the way to (and away from) another label map (paper section 3.3)."""
_STAGES = 7


class MaskVAE(nn.Module):
    """A variational autoencoder of whole label maps.

    Args:
        nc: classes.
        ngf, ndf: width factors of decoder and encoder.
        latent: length of the latent vector.
        size: 512, as published.
    """

    def __init__(
        self, nc: int = 19, ngf: int = 32, ndf: int = 32, latent: int = 1024, size: int = SIDE
    ) -> None:
        super().__init__()
        if size != SIDE:
            raise ValueError(f"size must be {SIDE}, got {size}")
        self.classes, self.start = nc, ngf * 2 ** (_STAGES - 1)
        widths = [nc, *(ndf * 2**i for i in range(_STAGES))]
        for i in range(1, _STAGES + 1):
            self.add_module(f"e{i}", nn.Conv2d(widths[i - 1], widths[i], 4, 2, 1))
            self.add_module(f"bn{i}", nn.BatchNorm2d(widths[i]))
        flat = (SIDE >> _STAGES) ** 2
        self.fc1 = nn.Linear(widths[-1] * flat, latent)
        self.fc2 = nn.Linear(widths[-1] * flat, latent)
        self.d1 = nn.Linear(latent, self.start * flat)
        widths = [*(ngf * 2**i for i in reversed(range(_STAGES))), nc]
        for i in range(_STAGES):
            self.add_module(f"d{i + 2}", nn.Conv2d(widths[i], widths[i + 1], 3))
            if i + 1 < _STAGES:
                self.add_module(f"bn{i + 8}", nn.BatchNorm2d(widths[i + 1], 1e-3))

    def encode(self, label: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, W) int64 -> mean and log-variance, (B, latent) each."""
        x = one_hot(resize_labels_torch(label, (SIDE, SIDE)), self.classes)
        for i in range(1, _STAGES + 1):
            x = leaky(getattr(self, f"bn{i}")(getattr(self, f"e{i}")(x)))
        flat = x.flatten(1)
        return self.fc1(flat), self.fc2(flat)

    def decode(self, z: Tensor) -> Tensor:
        """(B, latent) -> logits (B, nc, 512, 512)"""
        side = SIDE >> _STAGES
        x = F.relu(self.d1(z)).view(-1, self.start, side, side)
        for i in range(_STAGES):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = getattr(self, f"d{i + 2}")(F.pad(x, (1, 1, 1, 1), mode="replicate"))
            if i + 1 < _STAGES:
                x = leaky(getattr(self, f"bn{i + 8}")(x))
        return x

    def between(self, label: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the inner and outer label map: means moved towards and away from ``other``'s.

        Args:
            label, other: (B, H, W) int64.
        """
        mean, _ = self.encode(label)
        step = STEP * (self.encode(other)[0] - mean)
        inner, outer = self.decode(torch.cat([mean + step, mean - step])).chunk(2)
        return inner, outer
