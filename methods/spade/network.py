"""SPADE's generator (Park et al. 2019), and the one of SCAM's repository."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from sisbench.methods.layers.label_maps import LabelPyramid
from sisbench.methods.layers.scam_frame import TWICE, Frame, LabelFrameGenerator
from sisbench.methods.layers.semantics import Semantics
from sisbench.methods.layers.spade import MaskBranch, NormKind, Step, modulate
from sisbench.methods.layers.spade_generator import SpadeGenerator

if TYPE_CHECKING:
    from sisbench.methods.key_map import KeyMap

FRAME_KIND = NormKind(spectral=True, norm="batch", kernel=3)
"""Normalisation and kernel in SCAM's repository."""


class SpadeNorm(nn.Module):
    """Normalisation that the label map modulates (section 3 of the paper).

    Args:
        channels: C.
        label_channels: channels of the label map.
        hidden: width of the mask branch.
        kind: normalisation and kernel.
    """

    def __init__(self, channels: int, label_channels: int, hidden: int, kind: NormKind) -> None:
        super().__init__()
        self.norm = kind.build(channels)
        self.mask = MaskBranch(channels, label_channels, hidden, kind.kernel)

    def forward(self, x: Tensor, labels: LabelPyramid) -> Tensor:
        """x (B, C, h, w) -> the same shape."""
        level = labels.at((x.shape[2], x.shape[3]))
        return modulate(x, self.norm, level, self.mask(level))

    def map_keys(self, keys: KeyMap, ours: str, official: str) -> None:
        """Cover this layer."""
        self.mask.map_keys(keys, f"{ours}.mask", official)
        for buffer, _ in self.norm.named_buffers():
            keys.take(f"{ours}.norm.{buffer}", f"{official}.param_free_norm.{buffer}")


class ScamSpadeNorm(SpadeNorm):
    """The same under the names of SCAM's repository."""

    def map_keys(self, keys: KeyMap, ours: str, official: str) -> None:
        """Cover this layer."""
        names = ("shared_mlp.0", "gamma_mlp", "mu_mlp")
        self.mask.map_keys(keys, f"{ours}.mask", f"{official}.segmap_encoder", names)
        for buffer, _ in self.norm.named_buffers():
            keys.take(f"{ours}.norm.{buffer}", f"{official}.normalization_layer.{buffer}")


class Generator(SpadeGenerator):
    """The official generator.

    Args:
        semantics: channels of the label map.
        steps, start, z_dim: as for ``SpadeGenerator``.
        hidden: width of the mask branches.
        kind: normalisation and kernel.
    """

    def __init__(
        self,
        semantics: Semantics,
        steps: list[Step],
        start: tuple[int, int],
        z_dim: int | None,
        hidden: int,
        kind: NormKind,
    ) -> None:
        def make(channels: int) -> SpadeNorm:
            return SpadeNorm(channels, semantics.channels, hidden, kind)

        super().__init__(semantics, steps, start, z_dim, make)
        self.kind = kind

    def prepare(self, label: Tensor, edges: Tensor | None) -> LabelPyramid:
        """The label map at every size."""
        return LabelPyramid(label, self.classes, self.kind.kernel, edges)


class ScamGenerator(LabelFrameGenerator):
    """SPADE as SCAM's repository has it: the activation twice, no edges."""

    def __init__(self, frame: Frame, z_dim: int | None, hidden: int) -> None:
        def make(channels: int, _: int) -> SpadeNorm:
            return ScamSpadeNorm(channels, frame.classes, hidden, FRAME_KIND)

        super().__init__(frame, "SPADE", z_dim, make, TWICE)

    def prepare(self, label: Tensor) -> LabelPyramid:
        """The label map at every size."""
        return LabelPyramid(label, self.frame.classes, FRAME_KIND.kernel)
