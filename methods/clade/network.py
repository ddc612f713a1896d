"""CLADE's generator: SPADE's, with a scale and a shift from a table by class (Tan et al.)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sisbench.methods.clade.position import position_maps
from sisbench.methods.layers.class_table import ClassMap, ClassMaps, normalised, unit_table
from sisbench.methods.layers.scam_frame import TWICE, Frame, LabelFrameGenerator
from sisbench.methods.layers.semantics import Semantics
from sisbench.methods.layers.spade import Step, join_pair
from sisbench.methods.layers.spade_generator import SpadeGenerator

if TYPE_CHECKING:
    from sisbench.methods.key_map import KeyMap

OFFICIAL_NAMES = ("class_specified_affine", "param_free_norm")
FRAME_NAMES = ("segmap_encoder", "normalization_layer")


class CladeNorm(nn.Module):
    """weight[class] * norm(x) + bias[class]; no "1 +".

    Args:
        channels: C.
        classes: rows of the table.
        position: whether both are scaled by a function of the position in the region.
        instances: whether a channel made of the instance edges is appended.
        names: of table and norm in the files.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        position: bool = False,
        instances: bool = False,
        names: tuple[str, str] = OFFICIAL_NAMES,
    ) -> None:
        super().__init__()
        self.names = names
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.weight = unit_table(classes, channels)
        self.bias = nn.Parameter(torch.zeros(classes, channels))
        self.dist_conv = nn.Conv2d(2, 2, 1) if position else None
        self.inst_conv = nn.Conv2d(1, 1, 1) if instances else None

    def forward(self, x: Tensor, labels: ClassMaps) -> Tensor:
        """x (B, C, h, w) -> (B, C, h, w), or C + 1 channels with instances."""
        level = labels.at((x.shape[2], x.shape[3]))
        x, scale, shift = normalised(self.norm, x)
        weight = level.spread(self.weight * scale)
        if self.dist_conv is None:
            x = torch.addcmul(level.spread(self.bias + self.weight * shift), x, weight)
        else:
            x = self._placed(torch.addcmul(level.spread(self.weight * shift), x, weight), level)
        if self.inst_conv is not None:
            x = torch.cat([x, self.inst_conv(level.edges)], 1)
        return x

    def _placed(self, scaled: Tensor, level: ClassMap) -> Tensor:
        """``scaled`` and the bias, each times 1 + its convolution of the position map."""
        assert self.dist_conv is not None
        assert level.position is not None
        factor = 1 + self.dist_conv(level.position)  # (B, 2, h, w)
        return torch.addcmul(scaled * factor[:, :1], level.spread(self.bias), factor[:, 1:])

    def map_keys(self, keys: KeyMap, ours: str, official: str) -> None:
        """Cover this layer."""
        table, norm = self.names
        for end in ("weight", "bias"):
            keys.take(f"{ours}.{end}", f"{official}.{table}.{end}")
            if self.dist_conv is not None:
                pair = [f"{official}.{table}.dist_conv_{part}.{end}" for part in ("w", "b")]
                join_pair(keys, f"{ours}.dist_conv.{end}", pair)
            if self.inst_conv is not None:
                keys.take(f"{ours}.inst_conv.{end}", f"{official}.inst_conv.{end}")
        for buffer, _ in self.norm.named_buffers():
            keys.take(f"{ours}.norm.{buffer}", f"{official}.{norm}.{buffer}")


class Generator(SpadeGenerator):
    """The official generator.

    Args:
        semantics: channels of the label map; the edge channel is not a class.
        steps, start, z_dim: as for ``SpadeGenerator``.
        position: whether the layers see where a pixel lies in its region.
        norm_dist: whether those positions are divided by the region's extent.
    """

    def __init__(
        self,
        semantics: Semantics,
        steps: list[Step],
        start: tuple[int, int],
        z_dim: int | None,
        position: bool,
        norm_dist: bool,
    ) -> None:
        edges = semantics.instances

        def make(channels: int) -> CladeNorm:
            return CladeNorm(channels, semantics.classes, position, edges)

        super().__init__(semantics, steps, start, z_dim, make, extra=int(edges))
        self.position, self.norm_dist = position, norm_dist

    def prepare(self, label: Tensor, edges: Tensor | None) -> ClassMaps:
        """The label map at every size."""
        position = position_maps(label, self.norm_dist) if self.position else None
        return ClassMaps(label, edges, position)


class ScamGenerator(LabelFrameGenerator):
    """CLADE as SCAM's repository has it: the activation twice, no edges, no positions."""

    def __init__(self, frame: Frame, z_dim: int | None) -> None:
        def make(channels: int, _: int) -> CladeNorm:
            return CladeNorm(channels, frame.classes, names=FRAME_NAMES)

        super().__init__(frame, "CLADE", z_dim, make, TWICE)

    def prepare(self, label: Tensor) -> ClassMaps:
        """The label map at every size."""
        return ClassMaps(label)
