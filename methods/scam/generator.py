"""The SCAM generator: the tokens of a class modulate its pixels, and read them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sisbench.core.resize import resize_labels_torch
from sisbench.methods.base import NoiseSource, draw
from sisbench.methods.layers.labels import one_hot
from sisbench.methods.scam.attention import (
    Attention,
    Pixels,
    TokenUpdate,
    leaky,
    position_code,
    token_mlp,
)
from sisbench.methods.scam.options import Config
from sisbench.methods.scam.regions import Regions
from sisbench.methods.scam.tokens import TokenIndex

_EPS = 1e-5


@dataclass
class Features:
    """A feature map with what its modulations share: position code, blocks, instance statistics."""

    x: Tensor
    pixels: Pixels
    mean: Tensor
    scale: Tensor

    @staticmethod
    def of(x: Tensor, regions: Regions) -> Features:
        """From a map (B, C, h, w)."""
        rows = x.permute(0, 2, 3, 1)  # (B, h, w, C), a view of a channels-last map
        code = position_code(x.shape[1], x.shape[2], x.shape[3], x.device)
        variance, mean = torch.var_mean(rows, dim=(1, 2), correction=0)  # (B, C)
        return Features(
            x, Pixels.of(rows + code.to(x.dtype), regions), mean, torch.rsqrt(variance + _EPS)
        )


class Modulation(nn.Module):
    """(1 + gamma) IN(x) + beta, where a pixel gets gamma and beta from the tokens of its class.

    Args:
        channels: C of the map.
        config: of the generator.
        duplex: whether the tokens attend to the pixels first; else they pass an MLP.
        noise: whether a noise map is added, scaled by channel.
    """

    def __init__(self, channels: int, config: Config, duplex: bool, noise: bool) -> None:
        super().__init__()
        d, a, heads = config.dim, config.generator_attention, config.heads
        self.latent_to_image = Attention(channels, d, a, heads)
        self.mlp_lti_gamma = nn.Linear(channels, channels)
        self.mlp_lti_beta = nn.Linear(channels, channels)
        self.duplex = duplex
        if duplex:
            to_tokens = Attention(d, channels, a, heads)
            self.image_to_latent = TokenUpdate(config.tokens, d, to_tokens)
        else:
            self.fc_itl = token_mlp(d, last_activation=False)
        self.noise_var = nn.Parameter(torch.zeros(channels)) if noise else None

    def forward(
        self, features: Features, tokens: Tensor, index: TokenIndex, noise: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The map before its LeakyReLU, the tokens, and the attention of each place.

        Args:
            features: of a map (B, C, h, w).
            tokens: (B, T, d).
            index: order of the tokens.
            noise: (B, 1, h, w), or None.

        Returns:
            (B, C, h, w), (B, T, d), and (B, N, L, heads, M) weights over the own class's tokens.
        """
        pixels = features.pixels
        if self.duplex:
            tokens = self.image_to_latent(tokens, index, pixels)
        else:
            tokens = self.fc_itl(tokens)
        weight = self.pixels_to_tokens(tokens, index, pixels)  # (B, N, L, h, M)
        table, hole = self.tables(tokens, index, features)
        rows = weight.flatten(3) @ pixels.blocks.of_group(table, hole)  # (B, N, L, 2C)
        maps = pixels.blocks.scatter(rows).unflatten(1, features.x.shape[2:]).permute(0, 3, 1, 2)
        gamma, beta = maps.chunk(2, 1)
        y = torch.addcmul(beta, gamma, features.x)
        if self.noise_var is not None and noise is not None:
            y = torch.addcmul(y, self.noise_var[:, None, None], noise)
        return y, tokens, weight

    def pixels_to_tokens(self, tokens: Tensor, index: TokenIndex, pixels: Pixels) -> Tensor:
        """Weights of each place over the tokens of its class, (B, N, L, heads, M).

        Queries are folded into the tokens, so that a pixel costs M dot products. A hole's weights
        mean nothing but their sum of 1: its table has the same row for each.
        """
        attention, classes = self.latent_to_image, pixels.regions.classes
        key = attention.key(index.of_ranks(tokens, classes)).unflatten(3, (attention.heads, -1))
        key = key * attention.scale  # (B, P, M, h, i)
        folded = torch.einsum("bpmhi,hid->bphmd", key, attention.head_weight(attention.query))
        bias = attention.query.bias.unflatten(0, (attention.heads, -1))
        offset = torch.einsum("bpmhi,hi->bphm", key, bias)
        absent = ~index.valid_of(classes)[:, :, None]  # (B, P, 1, M)
        offset = offset.masked_fill(absent, torch.finfo(key.dtype).min).flatten(2)
        blocks = pixels.blocks
        logits = pixels.sorted @ blocks.of_group(folded.flatten(2, 3)).transpose(2, 3)
        logits = logits + blocks.of_group(offset)[:, :, None]
        return logits.unflatten(3, (attention.heads, -1)).softmax(4)

    def tables(
        self, tokens: Tensor, index: TokenIndex, features: Features
    ) -> tuple[Tensor, Tensor | None]:
        """What each token of the present classes contributes to gamma and beta of x itself.

        Value, output, gamma and beta projections and the instance norm are all linear in the
        weights, which sum to 1 in each head: they are folded into the tokens.

        Returns:
            (B, P, heads * M, 2C), and for holes (uniform over all tokens) (B, 1, heads * M, 2C).
        """
        regions = features.pixels.regions
        values = self.latent_to_image.value(index.of_ranks(tokens, regions.classes))
        table = self._project(values, features)
        if not regions.has_holes:
            return table, None
        everywhere = self.latent_to_image.value(tokens.mean(1))[:, None, None]  # (B, 1, 1, a)
        return table, self._project(everywhere.expand(-1, 1, index.most, -1), features)

    def _project(self, values: Tensor, features: Features) -> Tensor:
        """(B, P, M, a) -> (B, P, heads * M, 2C)."""
        attention = self.latent_to_image
        out, heads = attention.out, attention.heads
        weight = out.weight.unflatten(1, (heads, -1))  # (C, h, i)
        mixed = torch.einsum("bpmhi,chi->bphmc", values.unflatten(3, (heads, -1)), weight)
        mixed = (mixed + out.bias / heads).flatten(2, 3)
        gamma = F.linear(mixed, self.mlp_lti_gamma.weight, (self.mlp_lti_gamma.bias + 1) / heads)
        beta = F.linear(mixed, self.mlp_lti_beta.weight, self.mlp_lti_beta.bias / heads)
        gamma = gamma * features.scale[:, None, None]
        return torch.cat([gamma, beta - gamma * features.mean[:, None, None]], 3)


class ToRGB(nn.Module):
    """A block's share of the image; the last block has no modulation of its own here."""

    def __init__(self, channels: int, config: Config, last: bool) -> None:
        super().__init__()
        if not last:
            self.mod_rgb = Modulation(channels, config, duplex=False, noise=False)
        self.conv_rgb = nn.Conv2d(channels, 3, 1)

    def forward(self, features: Features, tokens: Tensor, index: TokenIndex) -> Tensor:
        """(B, 3, h, w); what happens to the tokens here is dropped."""
        return self.conv_rgb(leaky(self.mod_rgb(features, tokens, index, None)[0]))


class Block(nn.Module):
    """Modulation and convolution, twice, with the enlargement between."""

    def __init__(self, fin: int, fout: int, config: Config, last: bool) -> None:
        super().__init__()
        middle = min(fin, fout)
        self.mod_0 = Modulation(fin, config, config.duplex, config.noise)
        self.mod_1 = Modulation(middle, config, config.duplex, config.noise)
        self.conv_0 = nn.Conv2d(fin, middle, 3, padding=1)
        self.conv_1 = nn.Conv2d(middle, fout, 3, padding=1)
        self.torgb = ToRGB(fout, config, last)


class Generator(nn.Module):
    """Label map and tokens to an image."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        n = config.filters
        self.config = config
        self.index = TokenIndex(config.classes, config.k0, config.k)
        widths = [16 * n] * (config.blocks - 4) + [16 * n, 8 * n, 4 * n, 2 * n, n]
        widths = widths[-config.blocks - 1 :]
        self.first_conv = nn.Conv2d(config.classes, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList(
            Block(fin, fout, config, last=i == config.blocks - 1)
            for i, (fin, fout) in enumerate(pairwise(widths))
        )
        self.to(memory_format=torch.channels_last)

    def forward(
        self, label: Tensor, regions: Regions, tokens: Tensor, noise: NoiseSource
    ) -> tuple[Tensor, Tensor]:
        """The image and the last modulation's attention.

        Args:
            label: (B, H, W) int64; -1 for holes.
            regions: of ``label``.
            tokens: (B, T, d).
            noise: source of ``block<b>.<0 or 1>``.

        Returns:
            (B, 3, H, W) in [-1, 1], and (B, N, L, heads, M) weights at the image's size.
        """
        start = resize_labels_torch(label, self.config.start)
        planes = one_hot(start, self.config.classes, tokens.dtype)
        x = self.first_conv(planes.contiguous(memory_format=torch.channels_last))
        features, image = Features.of(x, regions), None
        for b, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            last = b == len(self.blocks) - 1
            size = self.config.size if last else (2 * x.shape[2], 2 * x.shape[3])
            y, tokens, _ = block.mod_0(features, tokens, self.index, self.noise(noise, b, 0, x))
            x = F.interpolate(block.conv_0(leaky(y, 2)), size=size, mode="nearest")
            features = Features.of(x, regions)
            y, tokens, weight = block.mod_1(
                features, tokens, self.index, self.noise(noise, b, 1, x)
            )
            x = block.conv_1(leaky(y, 2))  # the modulation's LeakyReLU and the convolution's
            if last:
                share = block.torgb.conv_rgb(x)
            else:
                features = Features.of(x, regions)  # serves the next block too
                share = block.torgb(features, tokens, self.index)
            image = share if image is None else share + F.interpolate(image, size=size)
        assert image is not None
        return torch.tanh(image), weight

    def noise(self, source: NoiseSource, block: int, which: int, x: Tensor) -> Tensor | None:
        """The noise map (B, 1, h, w) of one modulation of ``x``; None without noise."""
        if not self.config.noise:
            return None
        return draw(source, f"block{block}.{which}", len(x), 1, *x.shape[2:], like=x)
