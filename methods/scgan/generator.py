"""Semantic render generation (section 3.3 of the SC-GAN paper): a generator whose convolutions and
normalisations are mixed per pixel from a few experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sisbench.core.resize import resize_labels_torch
from sisbench.methods.layers.label_maps import LabelPyramid, Level
from sisbench.methods.layers.labels import interpolate_nearest
from sisbench.methods.layers.spade import (
    LabelConv,
    MaskBranch,
    NormKind,
    frozen_affine,
    generator_steps,
    leaky,
    modulate,
)
from sisbench.methods.scgan.routing import Routing, weights_of

if TYPE_CHECKING:
    from sisbench.methods.key_map import KeyMap

_HIDDEN = 128
_ROUTES = (0, 1, 1, 2, 3, 4, 5)
"""Level of the routing network that each block takes."""


class ExpertConv(nn.Module):
    """3x3 convolutions whose outputs are added up with the weights of each output pixel."""

    def __init__(self, fin: int, fout: int, experts: int) -> None:
        super().__init__()
        self.conv_bases = nn.ModuleList(
            nn.Conv2d(fin, fout, 3, padding=1, bias=False) for _ in range(experts)
        )

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """x (B, fin, h, w), weights (B, E, h, w) -> (B, fout, h, w)"""
        first, *others = self.conv_bases
        out = first(x) * weights[:, :1]
        for i, conv in enumerate(others, 1):
            out = torch.addcmul(out, conv(x), weights[:, i : i + 1])
        return out


class ExpertNorm(nn.Module):
    """Normalisation whose gamma and beta are mixed per pixel from those of the experts."""

    def __init__(self, channels: int, kind: NormKind, experts: int) -> None:
        super().__init__()
        self.norm = kind.build(channels)
        self.affine_params_groups = nn.Parameter(torch.zeros(experts, 2 * channels))

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """x (B, C, h, w), weights (B, E, h, w) -> (B, C, h, w)

        In eval mode a batch norm is an affine map: it goes into the experts' few parameters.
        """
        gamma, beta = self.affine_params_groups.chunk(2, 1)  # (E, C) each
        one: Tensor | None = torch.ones_like(gamma[0])
        if isinstance(self.norm, nn.BatchNorm2d) and not self.norm.training:
            scale, shift = frozen_affine(self.norm)
            gamma, beta, one = gamma * scale, beta + gamma * shift, scale
            offset: Tensor | None = shift
        else:
            x, offset = self.norm(x), None
        factor = F.conv2d(weights, gamma.T[:, :, None, None], one)
        return torch.addcmul(F.conv2d(weights, beta.T[:, :, None, None], offset), x, factor)


class Block(nn.Module):
    """Residual block of expert layers; a learned shortcut has SPADE's norm and a 3x3 convolution.

    Args:
        fin, fout: channels.
        classes: classes of the label map.
        kind: normalisation, and whether convolutions are spectrally normalised in the file.
        experts: number of convolution and of norm experts.
    """

    def __init__(
        self, fin: int, fout: int, classes: int, kind: NormKind, experts: tuple[int, int]
    ) -> None:
        super().__init__()
        middle, (convs, norms) = min(fin, fout), experts
        self.conv_0 = ExpertConv(fin, middle, convs)
        self.conv_1 = ExpertConv(middle, fout, convs)
        self.norm_0, self.norm_1 = ExpertNorm(fin, kind, norms), ExpertNorm(middle, kind, norms)
        self.learned = fin != fout
        if self.learned:
            self.conv_s = nn.Conv2d(fin, fout, 3, padding=1)
            self.norm_s = kind.build(fin)
            self.mask_s = MaskBranch(fin, classes, _HIDDEN, 3)

    def forward(self, x: Tensor, level: Level, weights: tuple[Tensor, Tensor]) -> Tensor:
        """x (B, fin, h, w) -> (B, fout, h, w); weights of convolution and norm experts."""
        conv, norm = weights
        skip = self.shortcut(x, level) if self.learned else x
        x = self.conv_0(leaky(self.norm_0(x, norm)), conv)
        return skip + self.conv_1(leaky(self.norm_1(x, norm)), conv)

    def shortcut(self, x: Tensor, level: Level) -> Tensor:
        """(B, fin, h, w) -> (B, fout, h, w)"""
        return self.conv_s(modulate(x, self.norm_s, level, self.mask_s(level)))

    def map_keys(self, keys: KeyMap, prefix: str, spectral: bool) -> None:
        """Cover this block, whose keys start with ``prefix``."""
        for name in ("conv_0", "conv_1"):
            for i in range(len(getattr(self, name).conv_bases)):
                take = keys.spectral if spectral else keys.take
                take(f"{prefix}{name}.conv_bases.{i}.weight")
        norms = {"norm_0": self.norm_0.norm, "norm_1": self.norm_1.norm}
        ours = {"norm_0": "norm_0.norm", "norm_1": "norm_1.norm", "norm_s": "norm_s"}
        if self.learned:
            norms["norm_s"] = self.norm_s
            keys.spectral(f"{prefix}conv_s.weight")
            self.mask_s.map_keys(keys, f"{prefix}mask_s", f"{prefix}norm_s")
        for name, norm in norms.items():
            for buffer, _ in norm.named_buffers():
                keys.take(
                    f"{prefix}{ours[name]}.{buffer}", f"{prefix}{name}.param_free_norm.{buffer}"
                )


class Generator(nn.Module):
    """Label map and latent vector to photograph.

    Args:
        routing: the routing network.
        ngf, nff: width factors of the blocks and of the start.
        start: (h, w) of the first block.
        z_dim: length of the latent vector, or None: the label map itself is the start.
        kind: normalisation, and whether experts are spectrally normalised in the file.
        temperature: factor of the routing logits.
    """

    def __init__(
        self,
        routing: Routing,
        ngf: int,
        nff: int,
        start: tuple[int, int],
        z_dim: int | None,
        kind: NormKind,
        temperature: float,
    ) -> None:
        super().__init__()
        self.classes, self.start, self.width = routing.pyramid.classes, start, 16 * nff
        self.kind, self.temperature = kind, temperature
        if z_dim is None:
            self.fc: nn.Module = LabelConv(self.classes, self.width, 3)
        else:
            self.fc = nn.Linear(z_dim, self.width * start[0] * start[1])
        self.pyramid_spaital_routing = routing  # spelt as in the official keys
        self.steps = generator_steps(ngf, "normal")
        for i, step in enumerate(self.steps):
            fin = step.fin if i else self.width
            self.add_module(step.name, Block(fin, step.fout, self.classes, kind, routing.experts))
        self.conv_img = nn.Conv2d(self.steps[-1].fout, 3, 3, padding=1)

    def forward(self, label: Tensor, z: Tensor | None) -> Tensor:
        """label (B, H, W) int64 at the picture's size, z (B, z_dim) or None
        -> (B, 3, H, W) in [-1, 1]."""
        routes = [weights_of(r, self.temperature) for r in self.pyramid_spaital_routing(label)]
        labels, (height, width) = LabelPyramid(label, self.classes), self.start
        if z is None:
            level = Level(resize_labels_torch(label, self.start), self.classes, 3, None, dense=True)
            x = self.fc(level).view(-1, height, width, self.width).permute(0, 3, 1, 2)
        else:
            x = self.fc(z).view(-1, self.width, height, width)
        x = x.contiguous(memory_format=torch.channels_last)
        for step, route in zip(self.steps, _ROUTES, strict=True):
            if step.up:
                x = interpolate_nearest(x)
            level = labels.at((x.shape[2], x.shape[3]))
            x = getattr(self, step.name)(x, level, routes[route])
        return F.hardtanh(self.conv_img(leaky(x)))

    def map_keys(self, keys: KeyMap, spectral_routing: bool) -> None:
        """Cover the whole generator."""
        if isinstance(self.fc, LabelConv):
            self.fc.map_keys(keys, "fc", "fc")
        self.pyramid_spaital_routing.map_keys(keys, "pyramid_spaital_routing.", spectral_routing)
        for step in self.steps:
            block: Block = getattr(self, step.name)
            block.map_keys(keys, f"{step.name}.", self.kind.spectral)
        keys.same()
