"""The first stage: an autoencoder with a Gaussian latent (Rombach et al., 2022; frozen)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from sisbench.methods.layers.diffusion.autoencoder import Decoder, Encoder


class FirstStage(nn.Module):
    """Autoencoder whose latent, times ``scale``, the diffusion runs on.

    Args:
        dim: channels of the latent.
        z: channels between encoder and decoder and the 1x1 convolutions.
        width: base width, times ``multipliers`` by level.
        multipliers: one a level; each level halves the size of the one before.
        blocks: residual blocks a level of the encoder; the decoder has one more.
        scale: of the latents.
    """

    def __init__(
        self,
        dim: int = 3,
        z: int = 3,
        width: int = 128,
        multipliers: Sequence[int] = (1, 2, 4),
        blocks: int = 2,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.encoder = Encoder(2 * z, width, multipliers, blocks)
        self.decoder = Decoder(z, width, multipliers, blocks)
        self.quant_conv = nn.Conv2d(2 * z, 2 * dim, 1)
        self.post_quant_conv = nn.Conv2d(dim, z, 1)

    def moments(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) in [-1, 1] -> mean and log variance, (B, dim, H/f, W/f) each, unscaled."""
        mean, log_variance = self.quant_conv(self.encoder(image)).chunk(2, 1)
        return mean, log_variance.clamp(-30, 20)

    def encode(self, image: Tensor, noise: Tensor) -> Tensor:
        """A draw of the latent that the diffusion is trained on, (B, dim, H/f, W/f)."""
        mean, log_variance = self.moments(image)
        return self.scale * (mean + (0.5 * log_variance).exp() * noise)

    def decode(self, latent: Tensor) -> Tensor:
        """(B, dim, h, w) as the sampler gives it -> (B, 3, f*h, f*w), not clamped."""
        return self.decoder(self.post_quant_conv(latent / self.scale))
