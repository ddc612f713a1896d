"""SPADE's image encoder, which SC-GAN takes over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from sisbench.methods.layers.spade import leaky

if TYPE_CHECKING:
    from sisbench.methods.key_map import KeyMap

ENCODER_MINIMUM = 4
"""Side of the encoder's last features."""


class Encoder(nn.Module):
    """Photograph to mean and log-variance of its latent vector (appendix A of the paper).

    Args:
        size: side that photographs are brought to; halved down to 4 (256 gives six stages).
        nef: channels of the first stage; they double up to 8 times that.
        z_dim: length of the latent vector.
    """

    def __init__(self, size: int, nef: int, z_dim: int) -> None:
        super().__init__()
        self.size = size
        self.stages = (size // ENCODER_MINIMUM).bit_length() - 1
        widths = [3, *(nef * min(2**i, 8) for i in range(self.stages))]
        for i in range(self.stages):
            conv = nn.Conv2d(widths[i], widths[i + 1], 3, stride=2, padding=1, bias=False)
            self.add_module(f"layer{i + 1}", conv)
        flat = widths[-1] * ENCODER_MINIMUM**2
        self.fc_mu, self.fc_var = nn.Linear(flat, z_dim), nn.Linear(flat, z_dim)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """image (B, 3, H, W) in [-1, 1] -> mu, logvar (B, z_dim)."""
        size = (self.size, self.size)
        if image.shape[2:] != size:
            image = F.interpolate(image, size, mode="bilinear", align_corners=False)
        x = image
        for i in range(self.stages):
            x = leaky(F.instance_norm(getattr(self, f"layer{i + 1}")(x)))
        flat = x.flatten(1)
        return self.fc_mu(flat), self.fc_var(flat)

    def map_keys(self, keys: KeyMap, spectral: bool) -> None:
        """Cover the encoder."""
        for i in range(self.stages):
            take = keys.spectral if spectral else keys.take
            take(f"layer{i + 1}.weight", f"layer{i + 1}.0.weight")
        keys.same()
