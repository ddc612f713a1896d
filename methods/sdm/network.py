"""SDM's UNet: the noisy image through a plain encoder, the label map in middle and decoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sisbench.methods.key_map import KeyMap
from sisbench.methods.layers.diffusion.blocks import conv3, group_norm
from sisbench.methods.layers.diffusion.branches import widen
from sisbench.methods.layers.diffusion.unet import timestep_embedding
from sisbench.methods.layers.label_maps import LabelPyramid
from sisbench.methods.sdm.blocks import Modulation, ResBlock, SDMBlock, SelfAttention

Terms = tuple[tuple[Modulation, Modulation], ...]
"""Both norms of a block, one pair a branch."""


@dataclass(frozen=True)
class Condition:
    """Everything in the UNet that the label map decides, computed once for all steps.

    Attributes:
        batch: number of samples.
        branches: 1, or 2 for (null, conditional).
        terms: for each SDM block in running order.
        kernels: for each SDM block, that of an up block.
    """

    batch: int
    branches: int
    terms: list[Terms]
    kernels: list[Tensor | None]

    def after(self, null: Condition) -> Condition:
        """Both as one condition of two branches, ``null`` first."""
        joined = [a + b for a, b in zip(null.terms, self.terms, strict=True)]
        return Condition(self.batch, 2, joined, self.kernels)


class UNet(nn.Module):
    """Predicts noise and variance of a noisy image (SDM, section 3.2; arXiv 2207.00050).

    Args:
        label_channels: S, classes and edges.
        classes: of them, how many are classes.
        width: base width, times ``multipliers`` by level.
        multipliers: one a level; each level halves the size of the one before.
        blocks: residual blocks a level.
        attention: down-sampling factors at which self-attention stands.
        head: channels of an attention head, by width.
    """

    def __init__(
        self,
        label_channels: int,
        classes: int,
        width: int,
        multipliers: Sequence[float],
        blocks: int,
        attention: Sequence[int],
        head: dict[int, int],
    ) -> None:
        super().__init__()
        self.classes, self.edges, self.width = classes, label_channels > classes, width
        self.factor = 2 ** (len(multipliers) - 1)
        emb = 4 * width
        self.time_embed = nn.Sequential(nn.Linear(width, emb), nn.SiLU(), nn.Linear(emb, emb))

        def attend(ch: int, factor: int) -> list[nn.Module]:
            return [SelfAttention(ch, head[ch])] if factor in attention else []

        widths = [int(m * width) for m in multipliers]
        ch, factor = widths[0], 1
        self.input_blocks = nn.ModuleList([nn.ModuleList([conv3(3, ch)])])
        skips = [ch]
        for level, out in enumerate(widths):
            for _ in range(blocks):
                layers: list[nn.Module] = [ResBlock(ch, out, emb), *attend(out, factor)]
                self.input_blocks.append(nn.ModuleList(layers))
                ch = out
                skips.append(ch)
            if level < len(widths) - 1:
                self.input_blocks.append(nn.ModuleList([ResBlock(ch, ch, emb, down=True)]))
                skips.append(ch)
                factor *= 2

        def block(ch: int, out: int, up: bool = False) -> SDMBlock:
            return SDMBlock(ch, out, emb, label_channels, up)

        middle = [block(ch, ch), SelfAttention(ch, head[ch]), block(ch, ch)]
        self.middle_block = nn.ModuleList(middle)
        self.output_blocks = nn.ModuleList()
        for level, out in reversed(list(enumerate(widths))):
            for i in range(blocks + 1):
                layers = [block(ch + skips.pop(), out), *attend(out, factor)]
                ch = out
                if level and i == blocks:
                    layers.append(block(ch, ch, up=True))
                    factor //= 2
                self.output_blocks.append(nn.ModuleList(layers))
        self.out = nn.Sequential(group_norm(ch), nn.SiLU(), conv3(ch, 6))

    # ---- what is constant over the steps ------------------------------------------------------

    def condition(self, label: Tensor, edges: Tensor | None) -> Condition:
        """Condition of one branch.

        Args:
            label: (B, H, W) int64 in the network's classes; -1 is a pixel of no class.
            edges: (B, 1, H, W) float, where the network has a channel of edges.
        """
        height, width = label.shape[1:]
        pyramid = LabelPyramid(label, self.classes, edges=edges)
        terms: list[Terms] = []
        kernels: list[Tensor | None] = []
        for factor, block in self._blocks():
            terms.append((block.condition(pyramid, (height // factor, width // factor)),))
            kernels.append(block.kernel())
        return Condition(label.shape[0], 1, terms, kernels)

    def null_condition(self, like: Tensor) -> Condition:
        """Condition of the null branch, an empty label map of ``like``'s size (B, H, W): the same
        for every sample."""
        edges = like.new_zeros(1, 1, *like.shape[1:], dtype=torch.float32) if self.edges else None
        return self.condition(torch.full_like(like[:1], -1), edges)

    def time_terms(self, t: Tensor) -> list[Tensor]:
        """Scales and shifts of each residual block at timesteps (S,): a list of (S, 2 * width)."""
        emb = self.time_embed(timestep_embedding(t, self.width))
        return [m.emb_layers(emb) for m in self.modules() if isinstance(m, (ResBlock, SDMBlock))]

    def _blocks(self) -> Iterator[tuple[int, SDMBlock]]:
        """SDM blocks in running order, with the down-sampling factor of their input."""
        factor = self.factor
        for group in [self.middle_block, *self.output_blocks]:
            for layer in group.children():
                if isinstance(layer, SDMBlock):
                    yield factor, layer
                    factor //= 2 if layer.up else 1

    def map_keys(self, keys: KeyMap) -> None:
        """Official keys are ours, but for the mask branches."""
        for name, layer in self.named_modules():
            if isinstance(layer, SDMBlock):
                layer.map_keys(keys, f"{name}.")
        keys.same()

    # ---- one pass -----------------------------------------------------------------------------

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """(B, 3, H, W) noisy images at timesteps (1,) or (B,) -> (branches * B, 6, H, W)."""
        return self.step(x, self.time_terms(t), condition)

    def step(self, x: Tensor, times: Sequence[Tensor], condition: Condition) -> Tensor:
        """``forward`` with the rows of ``time_terms`` for this step, (1 or B, ...) each.

        The branches run as one through the encoder, which sees no label map.
        """
        feed = iter(times)
        terms = zip(condition.terms, condition.kernels, strict=True)
        h, skips = x, []
        for group in self.input_blocks:
            for layer in group.children():
                h = layer(h, next(feed)) if isinstance(layer, ResBlock) else layer(h)
            skips.append(h)
        for k, group in enumerate([self.middle_block, *self.output_blocks]):
            if k:
                h = torch.cat([h, widen(skips.pop(), h.shape[0])], 1)
            for layer in group.children():
                if isinstance(layer, SDMBlock):
                    term, kernel = next(terms)
                    h = layer(h, next(feed), term, condition.batch, kernel)
                else:
                    h = layer(h)
        return self.out(h)
