"""SPADE's generator and image encoder (Park et al. 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sisbench.core.resize import resize_labels_torch
from sisbench.methods.layers.label_maps import LabelPyramid, Level
from sisbench.methods.layers.semantics import Semantics
from sisbench.methods.layers.spade import (
    Block,
    LabelConv,
    MaskBranch,
    NormKind,
    generator_steps,
    leaky,
    modulate,
)

if TYPE_CHECKING:
    from sisbench.methods.key_map import KeyMap

ENCODER_MINIMUM = 4
"""Side of the encoder's last features."""


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
        return modulate(x, self.norm, level, *self.mask(level))

    def map_keys(self, keys: KeyMap, name: str) -> None:
        """Cover this layer."""
        self.mask.map_keys(keys, f"{name}.mask", name)
        for buffer, _ in self.norm.named_buffers():
            keys.take(f"{name}.norm.{buffer}", f"{name}.param_free_norm.{buffer}")


class Generator(nn.Module):
    """Label map and latent vector to photograph.

    Args:
        semantics: channels of the label map.
        ngf, cap: width factor, and a bound on every width (None officially).
        hidden: width of the mask branches.
        start: (h, w) of the first block.
        mode: upsampling mode.
        z_dim: length of the latent vector, or None: the label map itself is the start.
        kind: normalisation and kernel.
    """

    def __init__(
        self,
        semantics: Semantics,
        ngf: int,
        cap: int | None,
        hidden: int,
        start: tuple[int, int],
        mode: str,
        z_dim: int | None,
        kind: NormKind,
    ) -> None:
        super().__init__()
        channels, self.classes = semantics.channels, semantics.classes
        self.steps = generator_steps(ngf, mode, cap)
        self.kind, self.start, self.width = kind, start, self.steps[0].fin
        if z_dim is None:
            self.fc: nn.Module = LabelConv(channels, self.width, 3)
        else:
            self.fc = nn.Linear(z_dim, self.width * start[0] * start[1])
        for step in self.steps:
            block = Block(step.fin, step.fout, lambda c: SpadeNorm(c, channels, hidden, kind))
            self.add_module(step.name, block)
        self.conv_img = nn.Conv2d(self.steps[-1].fout, 3, 3, padding=1)

    def forward(self, label: Tensor, edges: Tensor | None, z: Tensor | None) -> Tensor:
        """label (B, H, W) int64, edges (B, 1, H, W) or None, z (B, z_dim) or None
        -> (B, 3, h, w) in [-1, 1]."""
        labels = LabelPyramid(label, self.classes, self.kind.kernel, edges)
        height, width = self.start
        if z is None:
            small = None if edges is None else resize_labels_torch(edges, self.start)
            level = Level(
                resize_labels_torch(label, self.start), self.classes, 3, small, dense=True
            )
            x = self.fc(level).view(-1, height, width, self.width).permute(0, 3, 1, 2)
        else:
            x = self.fc(z).view(-1, self.width, height, width)
        x = x.contiguous(memory_format=torch.channels_last)
        for step in self.steps:
            if step.up:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = getattr(self, step.name)(x, lambda layer, y, _: layer(y, labels))
        return torch.tanh(self.conv_img(leaky(x)))

    def map_keys(self, keys: KeyMap) -> None:
        """Cover the whole generator."""
        if isinstance(self.fc, LabelConv):
            self.fc.map_keys(keys, "fc", "fc")
        for step in self.steps:
            block: Block = getattr(self, step.name)
            block.map_keys(keys, step.name, self.kind.spectral)
            for norm in ("norm_0", "norm_1", "norm_s"):
                layer = getattr(block, norm)
                if layer is not None:
                    layer.map_keys(keys, f"{step.name}.{norm}")
        keys.same()


class Encoder(nn.Module):
    """Photograph to mean and log-variance of its latent vector (appendix A of the paper).

    Args:
        size: side that photographs are brought to; halved down to 4 (256 gives six stages).
        nef: channels of the first stage; they double up to 8 times that.
        z_dim: length of the latent vector.
    """

    def __init__(self, size: int, nef: int, z_dim: int) -> None:
        super().__init__()
        self.size = size
        self.stages = (size // ENCODER_MINIMUM).bit_length() - 1
        widths = [3, *(nef * min(2**i, 8) for i in range(self.stages))]
        for i in range(self.stages):
            conv = nn.Conv2d(widths[i], widths[i + 1], 3, stride=2, padding=1, bias=False)
            self.add_module(f"layer{i + 1}", conv)
        flat = widths[-1] * ENCODER_MINIMUM**2
        self.fc_mu, self.fc_var = nn.Linear(flat, z_dim), nn.Linear(flat, z_dim)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """image (B, 3, H, W) in [-1, 1] -> mu, logvar (B, z_dim)."""
        size = (self.size, self.size)
        if image.shape[2:] != size:
            image = F.interpolate(image, size, mode="bilinear", align_corners=False)
        x = image
        for i in range(self.stages):
            x = leaky(F.instance_norm(getattr(self, f"layer{i + 1}")(x)))
        flat = x.flatten(1)
        return self.fc_mu(flat), self.fc_var(flat)

    def map_keys(self, keys: KeyMap, spectral: bool) -> None:
        """Cover the encoder."""
        for i in range(self.stages):
            take = keys.spectral if spectral else keys.take
            take(f"layer{i + 1}.weight", f"layer{i + 1}.0.weight")
        keys.same()


class Networks(nn.Module):
    """The generator and, with the VAE, the encoder, under their official names."""

    def __init__(self, generator: Generator, encoder: Encoder | None) -> None:
        super().__init__()
        self.netG = generator
        self.netE = encoder
