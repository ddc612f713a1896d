"""The UNet of latent diffusion (SCA-DM, CoDiff): residual blocks, and transformers on tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from sisbench.core.resize import resize_labels_torch
from sisbench.methods.layers.diffusion.attention import SpatialTransformer, StyleTerm
from sisbench.methods.layers.diffusion.blocks import (
    Affine,
    Downsample,
    ResBlock,
    SPADEResBlock,
    Upsample,
    conv3,
    group_norm,
)
from sisbench.methods.layers.diffusion.branches import widen
from sisbench.methods.layers.labels import one_hot

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Condition:
    """Everything in the UNet that layout and style decide, computed once for all steps.

    Attributes:
        batch: number of samples.
        branches: 1, or 2 for (null, conditional).
        affines: for each SPADE block in running order, one pair of affines a branch.
        terms: for each transformer in running order, one style term a branch.
        kernels: of the enlargements in running order (``Upsample.kernel``); may be empty.
    """

    batch: int
    branches: int
    affines: list[tuple[tuple[Affine, Affine], ...]]
    terms: list[tuple[StyleTerm, ...]]
    kernels: list[Tensor]

    def after(self, null: Condition) -> Condition:
        """Both as one condition of two branches, ``null`` first."""
        return Condition(
            self.batch,
            null.branches + self.branches,
            [a + b for a, b in zip(null.affines, self.affines, strict=True)],
            [a + b for a, b in zip(null.terms, self.terms, strict=True)],
            self.kernels,
        )


@dataclass(frozen=True)
class _Feed:
    """What a pass takes in running order: time biases, affines, style terms, kernels."""

    batch: int
    times: Iterator[Tensor]
    affines: Iterator[tuple[tuple[Affine, Affine], ...]]
    terms: Iterator[tuple[StyleTerm, ...]]
    kernels: Iterator[Tensor]


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """Sinusoids of the timestep, cosines first: (S,) -> (S, dim) float32; dim is even."""
    half = dim // 2
    steps = torch.arange(half, dtype=torch.float32, device=t.device)
    angles = t.float()[:, None] * torch.exp(-math.log(10000) * steps / half)
    return torch.cat([angles.cos(), angles.sin()], 1)


class UNet(nn.Module):
    """Predicts the noise in a latent (Rombach et al., 2022), conditioned on tokens.

    With ``num_classes`` the norms of middle and decoder follow the label map (SCA-DM, section 3.2;
    arXiv 2403.12743).

    Args:
        num_classes: C of the label map in the norms; None for plain norms.
        channels: of the latent.
        width: base width, times ``multipliers`` by level.
        multipliers: one a level; each level halves the size of the one before.
        blocks: residual blocks a level.
        attention: down-sampling factors at which transformers stand.
        head: channels of an attention head.
        context: channels of a token (SCA-DM: of a class code).
        masked: whether a pixel attends to the code of its own class alone.
        heads: number of heads in every transformer, in place of ``head``.
        out: channels predicted; None: those of the latent.
        hidden: channels between the label map and the scales of its norms.
    """

    def __init__(
        self,
        num_classes: int | None,
        channels: int = 3,
        width: int = 224,
        multipliers: Sequence[int] = (1, 2, 3, 4),
        blocks: int = 2,
        attention: Sequence[int] = (8, 4, 2),
        head: int = 32,
        context: int = 1280,
        masked: bool = True,
        heads: int | None = None,
        out: int | None = None,
        hidden: int = 128,
    ) -> None:
        super().__init__()
        self.num_classes, self.masked, self.width = num_classes, masked, width
        self.factor = 2 ** (len(multipliers) - 1)
        emb = 4 * width
        self.time_embed = nn.Sequential(nn.Linear(width, emb), nn.SiLU(), nn.Linear(emb, emb))

        def transformer(ch: int, factor: int) -> list[nn.Module]:
            size = ch // heads if heads else head
            return [SpatialTransformer(ch, context, size)] if factor in attention else []

        def decoding(ch: int, out: int) -> nn.Module:
            if num_classes is None:
                return ResBlock(ch, out, emb)
            return SPADEResBlock(ch, out, emb, num_classes, hidden)

        self.input_blocks = nn.ModuleList([nn.ModuleList([conv3(channels, width)])])
        skips, ch, factor = [width], width, 1
        for level, multiplier in enumerate(multipliers):
            for _ in range(blocks):
                layers: list[nn.Module] = [ResBlock(ch, multiplier * width, emb)]
                ch = multiplier * width
                self.input_blocks.append(nn.ModuleList(layers + transformer(ch, factor)))
                skips.append(ch)
            if level < len(multipliers) - 1:
                self.input_blocks.append(nn.ModuleList([Downsample(ch)]))
                skips.append(ch)
                factor *= 2

        middle = SpatialTransformer(ch, context, ch // heads if heads else head)
        self.middle_block = nn.ModuleList([decoding(ch, ch), middle, decoding(ch, ch)])
        self.output_blocks = nn.ModuleList()
        for level, multiplier in reversed(list(enumerate(multipliers))):
            for i in range(blocks + 1):
                layers = [decoding(ch + skips.pop(), multiplier * width)]
                ch = multiplier * width
                layers += transformer(ch, factor)
                if level and i == blocks:
                    layers.append(Upsample(ch))
                    factor //= 2
                self.output_blocks.append(nn.ModuleList(layers))
        self.out = nn.Sequential(group_norm(ch), nn.SiLU(), conv3(ch, out or channels))

    # ---- what is constant over the steps ------------------------------------------------------

    def condition(self, label: Tensor, codes: Tensor, size: tuple[int, int]) -> Condition:
        """Condition of one branch from a layout and a style; needs ``num_classes``.

        Args:
            label: (B, H, W) int64 at image size; -1 is a pixel of no class.
            codes: (B, C, context).
            size: (h, w) of the latent.
        """
        assert self.num_classes is not None
        labels = {
            f: resize_labels_torch(label, (size[0] // f, size[1] // f)) for f in self._factors()
        }
        planes = {f: one_hot(value, self.num_classes, codes.dtype) for f, value in labels.items()}
        index = {f: torch.where(v < 0, self.num_classes, v) for f, v in labels.items()}
        return Condition(
            codes.shape[0],
            1,
            [(block.affines(planes[f]),) for f, block in self._layers(SPADEResBlock)],
            [
                (block.style_term(codes, index[f] if self.masked else None),)
                for f, block in self._layers(SpatialTransformer)
            ],
            [layer.kernel() for _, layer in self._layers(Upsample)],
        )

    def token_condition(self, tokens: Tensor) -> Condition:
        """Condition of a UNet with plain norms: tokens (B, T, context) for all pixels."""
        return Condition(
            tokens.shape[0],
            1,
            [],
            [(layer.style_term(tokens, None),) for _, layer in self._layers(SpatialTransformer)],
            [layer.kernel() for _, layer in self._layers(Upsample)],
        )

    def null_condition(self, batch: int, size: tuple[int, int]) -> Condition:
        """Condition of the null branch: zero codes and an empty label map."""
        return Condition(
            batch,
            1,
            [
                (block.null_affines((size[0] // f, size[1] // f)),)
                for f, block in self._layers(SPADEResBlock)
            ],
            [(block.null_term(),) for _, block in self._layers(SpatialTransformer)],
            [],
        )

    def time_biases(self, t: Tensor) -> list[Tensor]:
        """What each residual block adds at timesteps (S,): a list of (S, channels)."""
        emb = self.time_embed(timestep_embedding(t, self.width))
        return [
            layer.emb_layers(emb)
            for layer in self.modules()
            if isinstance(layer, (ResBlock, SPADEResBlock))
        ]

    def _factors(self) -> list[int]:
        return [2**level for level in range(self.factor.bit_length())]

    def _layers(self, kind: type[M]) -> Iterator[tuple[int, M]]:
        """Layers of a kind in running order, with the down-sampling factor where they stand."""
        factor = 1
        for block in [*self.input_blocks, self.middle_block, *self.output_blocks]:
            for layer in block.children():
                if isinstance(layer, kind):
                    yield factor, layer
                factor *= 2 if isinstance(layer, Downsample) else 1
                factor //= 2 if isinstance(layer, Upsample) else 1

    # ---- one pass -----------------------------------------------------------------------------

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Predicted noise.

        Args:
            x: (B, channels, h, w) noisy latent.
            t: (1,) or (B,) timesteps.
            condition: of one or two branches.

        Returns:
            (branches * B, channels, h, w).
        """
        return self.step(x, self.time_biases(t), condition)

    def step(self, x: Tensor, times: Sequence[Tensor], condition: Condition) -> Tensor:
        """``forward`` with the rows of ``time_biases`` for this step, (1 or B, channels) each.

        The branches run as one until the first layer that tells them apart.
        """
        c = condition
        feed = _Feed(c.batch, iter(times), iter(c.affines), iter(c.terms), iter(c.kernels))
        h, skips = x, []
        for block in self.input_blocks:
            h = self._run(block, h, feed)
            skips.append(h)
        h = self._run(self.middle_block, h, feed)
        for block in self.output_blocks:
            h = self._run(block, torch.cat([h, widen(skips.pop(), h.shape[0])], 1), feed)
        return self.out(h)

    def _run(self, block: nn.Module, h: Tensor, feed: _Feed) -> Tensor:
        for layer in block.children():
            if isinstance(layer, SPADEResBlock):
                h = layer(h, next(feed.times), next(feed.affines), feed.batch)
            elif isinstance(layer, ResBlock):
                h = layer(h, next(feed.times))
            elif isinstance(layer, SpatialTransformer):
                h = layer(h, next(feed.terms), feed.batch)
            elif isinstance(layer, Upsample):
                h = layer(h, next(feed.kernels, None))
            else:
                h = layer(h)
        return h
