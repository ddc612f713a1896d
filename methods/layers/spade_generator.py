"""The generator that SPADE and CLADE share: residual blocks between a start and the last
convolution, with normalisations that the label map modulates."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sisbench.core.resize import resize_labels_torch
from sisbench.methods.layers.label_maps import Level
from sisbench.methods.layers.semantics import Semantics
from sisbench.methods.layers.spade import Block, LabelConv, Step, leaky

if TYPE_CHECKING:
    from sisbench.methods.key_map import KeyMap

NORMS = ("norm_0", "norm_1", "norm_s")


class SpadeGenerator(nn.Module):
    """Label map and latent vector to photograph; subclasses say how the label map is prepared.

    Args:
        semantics: channels of the label map.
        steps: the blocks in their order.
        start: (h, w) of the first block.
        z_dim: length of the latent vector, or None: the label map itself is the start.
        make: builds the normalisation of so many channels.
        extra: channels that a normalisation appends to its input's.
    """

    def __init__(
        self,
        semantics: Semantics,
        steps: list[Step],
        start: tuple[int, int],
        z_dim: int | None,
        make: Callable[[int], nn.Module],
        extra: int = 0,
    ) -> None:
        super().__init__()
        self.steps, self.start, self.width = steps, start, steps[0].fin
        self.classes = semantics.classes
        if z_dim is None:
            self.fc: nn.Module = LabelConv(semantics.channels, self.width, 3)
        else:
            self.fc = nn.Linear(z_dim, self.width * start[0] * start[1])
        for step in steps:
            self.add_module(step.name, Block(step.fin, step.fout, make, extra=extra))
        self.conv_img = nn.Conv2d(steps[-1].fout, 3, 3, padding=1)

    @abstractmethod
    def prepare(self, label: Tensor, edges: Tensor | None) -> Any:
        """What the normalisations take beside the features, from the full-size maps."""

    def forward(self, label: Tensor, edges: Tensor | None, z: Tensor | None) -> Tensor:
        """label (B, H, W) int64, edges (B, 1, H, W) or None, z (B, z_dim) or None
        -> (B, 3, h, w) in [-1, 1]."""
        maps = self.prepare(label, edges)
        x = self.begin(label, edges, z).contiguous(memory_format=torch.channels_last)
        for step in self.steps:
            if step.up:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = getattr(self, step.name)(x, lambda layer, y, _: layer(y, maps))
        return torch.tanh(self.conv_img(leaky(x)))

    def begin(self, label: Tensor, edges: Tensor | None, z: Tensor | None) -> Tensor:
        """The features that the first block takes, (B, width, *start)."""
        if z is not None:
            return self.fc(z).view(-1, self.width, *self.start)
        small = None if edges is None else resize_labels_torch(edges, self.start)
        level = Level(resize_labels_torch(label, self.start), self.classes, 3, small, dense=True)
        return self.fc(level).view(-1, *self.start, self.width).permute(0, 3, 1, 2)

    def map_keys(self, keys: KeyMap, spectral: bool) -> None:
        """Cover the whole generator."""
        if isinstance(self.fc, LabelConv):
            self.fc.map_keys(keys, "fc", "fc")
        for step in self.steps:
            block: Block = getattr(self, step.name)
            block.map_keys(keys, step.name, spectral)
            for norm in NORMS:
                layer = getattr(block, norm)
                if layer is not None:
                    layer.map_keys(keys, f"{step.name}.{norm}", f"{step.name}.{norm}")
        keys.same()
