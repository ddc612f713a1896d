"""OASIS' generator: SPADE blocks whose condition is the label map joined with noise planes."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sisbench.core.resize import resize_labels_torch
from sisbench.methods.layers.label_maps import LabelPyramid, Level
from sisbench.methods.layers.spade import (
    Block,
    LabelConv,
    MaskBranch,
    NormKind,
    leaky,
    modulate,
    with_empty,
)

if TYPE_CHECKING:
    from sisbench.methods.key_map import KeyMap

_WIDTHS = (16, 16, 16, 8, 4, 2, 1)
"""Channels before, between and after the blocks, in units of the width factor."""
BLOCK_DOUBLINGS = 2 ** (len(_WIDTHS) - 2)
"""Factor from the first block's size to the picture's."""


class NoisyLabelConv(LabelConv):
    """A zero-padded convolution of [noise planes; one-hot map], by look-up.

    The noise is one vector a class, so that a pixel's input is known from its class and sample:
    the table has a row for each of them, and the noise costs one small matrix product.

    Args:
        channels: classes.
        planes: length of the noise vectors; they come first in the official weight.
        out, kernel: as ``LabelConv``.
    """

    def __init__(self, channels: int, planes: int, out: int, kernel: int) -> None:
        super().__init__(channels, out, kernel)
        self.noise = nn.Parameter(torch.empty(planes, kernel * kernel, out))
        nn.init.normal_(self.noise, std=((channels + planes) * kernel * kernel) ** -0.5)

    def tables(self, codes: Tensor) -> Tensor:
        """(B, K, planes) -> (B, K, kernel^2, out)"""
        part = codes @ self.noise.flatten(1)
        return self.weight + part.unflatten(2, self.weight.shape[1:])

    def joined(self, level: Level, codes: Tensor) -> Tensor:
        """(n, out), a row for each of ``level.taps``; codes (B, K, planes)."""
        if torch.is_grad_enabled() and self.weight.requires_grad and level.windows is None:
            return self._joined_convolved(level, codes)
        rows = (level.classes + 1) * self.kernel**2
        taps = level.taps + (level.tap_samples * rows)[:, None]
        table = with_empty(self.tables(codes))
        return F.embedding_bag(taps, table, mode="sum") + self.bias

    def _joined_convolved(self, level: Level, codes: Tensor) -> Tensor:
        planes = torch.cat(
            [torch.einsum("bkhw,bkp->bphw", level.planes(), codes), level.planes()], 1
        )
        weight = torch.cat([self.noise, self.weight]).permute(2, 0, 1)
        weight = weight.unflatten(2, (self.kernel, self.kernel))
        out = F.conv2d(planes, weight, self.bias, padding=self.kernel // 2)
        return out.permute(0, 2, 3, 1).flatten(0, 2)

    def map_keys(self, keys: KeyMap, ours: str, official: str) -> None:
        """Cover the three tensors by the official convolution's two."""
        planes, channels, out = len(self.noise), *self.weight.shape[::2]
        shape = {f"{official}.weight": (out, planes + channels, self.kernel, self.kernel)}

        def part(name: str, chosen: slice) -> None:
            keys.join(
                f"{ours}.{name}",
                shape,
                lambda found: found[f"{official}.weight"][:, chosen].flatten(2).permute(1, 2, 0),
            )

        part("noise", slice(planes))
        part("weight", slice(planes, None))
        keys.take(f"{ours}.bias", f"{official}.bias")


class NoisyMaskBranch(MaskBranch):
    """gamma and beta from the label map and its noise."""

    shared: NoisyLabelConv

    def __init__(self, channels: int, classes: int, planes: int, hidden: int, kernel: int) -> None:
        super().__init__(channels, classes, hidden, kernel)
        self.shared = NoisyLabelConv(classes, planes, hidden, kernel)

    def forward(self, level: Level, codes: Tensor) -> Tensor:  # type: ignore[override]
        """As ``MaskBranch``, on a level per sample: (U, 2C)."""
        return self.modulated(level, F.relu(self.shared.joined(level, codes)))


class OasisNorm(nn.Module):
    """Normalisation that the label map and the noise modulate."""

    def __init__(
        self, channels: int, classes: int, planes: int, hidden: int, kind: NormKind
    ) -> None:
        super().__init__()
        self.norm = kind.build(channels)
        self.mask = NoisyMaskBranch(channels, classes, planes, hidden, kind.kernel)

    def forward(self, x: Tensor, labels: LabelPyramid, codes: Tensor) -> Tensor:
        """x (B, C, h, w), codes (B, K, planes) -> (B, C, h, w)"""
        level = labels.at((x.shape[2], x.shape[3]))
        return modulate(x, self.norm, level, self.mask(level, codes))

    def map_keys(self, keys: KeyMap, name: str) -> None:
        """Cover this layer."""
        self.mask.map_keys(keys, f"{name}.mask", name)
        for buffer, _ in self.norm.named_buffers():
            keys.take(f"{name}.norm.{buffer}", f"{name}.first_norm.{buffer}")


class Generator(nn.Module):
    """Label map and noise to photograph (section 3.2 of the paper).

    Args:
        classes: classes of the label map.
        planes: length of the noise vectors; 0 for none.
        ngf: width factor.
        start: (h, w) of the first block.
        kind: normalisation and kernel.
    """

    def __init__(
        self, classes: int, planes: int, ngf: int, start: tuple[int, int], kind: NormKind
    ) -> None:
        super().__init__()
        self.classes, self.kind, self.start = classes, kind, start
        widths = [ngf * w for w in _WIDTHS]
        self.fc = NoisyLabelConv(classes, planes, widths[0], 3)

        def norm(channels: int) -> OasisNorm:
            return OasisNorm(channels, classes, planes, 128, kind)

        self.body = nn.ModuleList(Block(fin, fout, norm) for fin, fout in pairwise(widths))
        self.conv_img = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, label: Tensor, codes: Tensor) -> Tensor:
        """label (B, H, W) int64, codes (B, K, planes) -> (B, 3, h, w) in [-1, 1]."""
        labels = LabelPyramid(label, self.classes, self.kind.kernel, per_sample=True)
        height, width = self.start
        level = Level(resize_labels_torch(label, self.start), self.classes, 3, None, dense=True)
        x = self.fc.joined(level, codes).view(-1, height, width, self.fc.bias.shape[0])
        x = x.permute(0, 3, 1, 2)  # (B, C, h, w), channels last in memory
        for i, block in enumerate(self.body):
            if i:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = block(x, lambda layer, y, _: layer(y, labels, codes))
        return torch.tanh(self.conv_img(leaky(x)))

    def map_keys(self, keys: KeyMap) -> None:
        """Cover the whole generator."""
        self.fc.map_keys(keys, "fc", "fc")
        for i, block in enumerate(self.body):
            assert isinstance(block, Block)
            block.map_keys(keys, f"body.{i}", self.kind.spectral)
            for name in ("norm_0", "norm_1", "norm_s"):
                layer = getattr(block, name)
                if layer is not None:
                    layer.map_keys(keys, f"body.{i}.{name}")
        keys.same()
