"""The first stage: vq-f4 of latent diffusion, an autoencoder with a codebook (frozen)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sisbench.methods.layers.diffusion.autoencoder import Decoder, Encoder

_ROWS = 4096
"""Pixels that are compared with the codebook at a time: bounds the memory of the distances."""


class Codebook(nn.Module):
    """Nearest code of each pixel."""

    def __init__(self, codes: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, dim)

    def indices(self, z: Tensor) -> Tensor:
        """(B, dim, h, w) -> (B, h, w) int64."""
        codes = self.embedding.weight
        rows = z.permute(0, 2, 3, 1).flatten(0, 2)  # (B*h*w, dim)
        norms = (codes**2).sum(1)
        # the pixel's own |z|^2 is the same for every code and is left out
        nearest = [torch.addmm(norms, r, codes.T, alpha=-2).argmin(1) for r in rows.split(_ROWS)]
        return torch.cat(nearest).reshape(z.shape[0], *z.shape[2:])

    def vectors(self, indices: Tensor) -> Tensor:
        """(B, h, w) int64 -> (B, dim, h, w)."""
        return self.embedding(indices).permute(0, 3, 1, 2)


class FirstStage(nn.Module):
    """Autoencoder whose latent the diffusion runs on (Rombach et al., 2022: vq-f4).

    Args:
        dim: channels of the latent.
        codes: size of the codebook.
        z: channels between the encoder and the 1x1 convolution to ``dim``.
        width: base width, times ``multipliers`` by level.
        multipliers: one a level; each level halves the size of the one before.
        blocks: residual blocks a level of the encoder; the decoder has one more.
    """

    def __init__(
        self,
        dim: int = 3,
        codes: int = 8192,
        z: int = 3,
        width: int = 128,
        multipliers: Sequence[int] = (1, 2, 4),
        blocks: int = 2,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(z, width, multipliers, blocks)
        self.decoder = Decoder(z, width, multipliers, blocks)
        self.quantize = Codebook(codes, dim)
        self.quant_conv = nn.Conv2d(z, dim, 1)
        self.post_quant_conv = nn.Conv2d(dim, z, 1)

    def encode(self, image: Tensor) -> Tensor:
        """Latent that the diffusion runs on, not quantised.

        Args:
            image: (B, 3, H, W) float in [-1, 1].

        Returns:
            (B, dim, H/f, W/f).
        """
        return self.quant_conv(self.encoder(image))

    def decode(self, latent: Tensor, quantize: bool = True) -> Tensor:
        """(B, dim, h, w) -> (B, 3, f*h, f*w), about [-1, 1] and not clamped.

        Args:
            latent: as from ``encode`` or from the sampler.
            quantize: replace each pixel by its nearest code first, as the official sampling does.
        """
        if quantize:
            latent = self.quantize.vectors(self.quantize.indices(latent))
        return self.decoder(self.post_quant_conv(latent))
