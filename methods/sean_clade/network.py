"""SEAN-CLADE's generator: a table by class, blended with a modulation by one code a class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sisbench.core.noise import ZeroNoise
from sisbench.methods.base import NoiseSource, draw, present_classes
from sisbench.methods.layers.class_table import unit_table
from sisbench.methods.layers.label_maps import LabelPyramid, Level
from sisbench.methods.layers.region_style import KERNEL, StyleBranch, StyleEncoder
from sisbench.methods.layers.scam_frame import Frame, FrameGenerator
from sisbench.methods.layers.spade import SLOPE, modulate

if TYPE_CHECKING:
    from sisbench.methods.key_map import KeyMap

ENCODER_NAMES = {
    "conv_in": "first_layer.1",
    "down_1": "bottleneck.down_0.0",
    "down_2": "bottleneck.down_1.0",
    "up": "bottleneck.up_1.0",
    "conv_out": "last_layer.1",
}


@dataclass(frozen=True)
class Present:
    """The drawn label map, numbered by the U classes that the batch holds: the others' tables and
    linear layers (151 of them for ADE20K) are not computed.

    Attributes:
        labels: the map with values in [0, U).
        kept: (U,) the classes that they stand for.
        codes: (B, U, length) their style codes.
    """

    labels: LabelPyramid
    kept: Tensor
    codes: Tensor

    @staticmethod
    def of(label: Tensor, codes: Tensor) -> Present:
        """From label (B, H, W) int64 and codes (B, K, length)."""
        kept = present_classes(label, codes.shape[1]).any(0).nonzero()[:, 0]
        number = label.new_zeros(codes.shape[1]).index_copy_(
            0, kept, torch.arange(len(kept), device=label.device)
        )
        renamed = torch.where(label < 0, label, number[label.clamp_min(0)])
        labels = LabelPyramid(renamed, len(kept), KERNEL, convs=1, per_sample=True)
        return Present(labels, kept, codes[:, kept])


class SeanCladeNorm(nn.Module):
    """(1 + gamma) norm(x + noise) + beta, with gamma and beta from a table by class and from the
    codes, blended by two learned shares.

    Args:
        channels: C.
        classes: rows of the table, and linear layers of the style branch.
        length: length of a code; None: no styles (last block).
    """

    def __init__(self, channels: int, classes: int, length: int | None) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.weight = unit_table(classes, channels)
        self.bias = nn.Parameter(torch.zeros(classes, channels))
        self.noise_var = nn.Parameter(torch.zeros(channels))
        self.style = None if length is None else StyleBranch(channels, classes, length)
        if self.style is not None:
            self.blend = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor, maps: Present, noise: NoiseSource, name: str) -> Tensor:
        """x (B, C, h, w) -> the same shape; draws ``name`` (1, h, w) from ``noise``."""
        level = maps.labels.at((x.shape[2], x.shape[3]))
        if not isinstance(noise, ZeroNoise):
            drawn = draw(noise, name, x.shape[0], 1, *x.shape[2:], like=x)
            x = torch.addcmul(x, drawn, self.noise_var[:, None, None])
        values = self._table(level, maps.kept)
        if self.style is not None:
            share = torch.sigmoid(self.blend).repeat_interleave(x.shape[1])  # (2C,)
            values = torch.lerp(values, self.style(maps.codes, level, maps.kept), share)
        return modulate(x, self.norm, level, values)

    def _table(self, level: Level, kept: Tensor) -> Tensor:
        """Values by window, 2C each; a pixel without a class has class 0's, as the argmax of an
        all-zero one-hot column."""
        table = torch.cat([self.weight, self.bias], 1)
        return torch.cat([table[kept], table[:1]])[level.centre_index]

    def map_keys(self, keys: KeyMap, ours: str, official: str) -> None:
        """Cover this layer."""
        for end in ("weight", "bias"):
            keys.take(f"{ours}.{end}", f"{official}.segmap_encoder.{end}")
        keys.take(f"{ours}.noise_var", f"{official}.noise_var")
        for buffer, _ in self.norm.named_buffers():
            keys.take(f"{ours}.norm.{buffer}", f"{official}.normalization_layer.{buffer}")
        blends = [f"{official}.blending_gamma", f"{official}.blending_beta"]
        if self.style is None:
            for key in blends:
                keys.unused(key, (1,))
            return
        keys.join(
            f"{ours}.blend",
            dict.fromkeys(blends, (1,)),
            lambda found: torch.cat([found[b] for b in blends]),
        )
        linear, convs = "st_proj.style_code_{}_proj.0", ("mlp_st_gamma", "mlp_st_beta")
        self.style.map_keys(keys, official, f"{ours}.style", linear, convs)


class Generator(FrameGenerator):
    """Label map and style codes to photograph.

    Args:
        frame: sizes.
        length: length of a style code.
    """

    def __init__(self, frame: Frame, length: int) -> None:
        last = len(frame.widths) - 2

        def make(channels: int, block: int) -> SeanCladeNorm:
            return SeanCladeNorm(channels, frame.classes, length if block < last else None)

        super().__init__(frame, "SEANCLADE", None, make, SLOPE)

    def forward(self, label: Tensor, codes: Tensor, noise: NoiseSource) -> Tensor:
        """label (B, H, W) int64, codes (B, K, length) -> (B, 3, *size) in [-1, 1]."""
        maps = Present.of(label, codes)
        return self.draw(label, None, lambda layer, x, name: layer(x, maps, noise, name))


class Networks(nn.Module):
    """Style encoder and generator under their official names."""

    def __init__(self, encoder: StyleEncoder, generator: Generator) -> None:
        super().__init__()
        self.encoder, self.generator = encoder, generator
