"""SEAN's generator and style encoder (Zhu et al. 2020), with the style convolutions contracted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sisbench.core.noise import ZeroNoise
from sisbench.core.resize import resize_labels_torch
from sisbench.methods.base import NoiseSource, draw
from sisbench.methods.layers.label_maps import LabelPyramid, Level
from sisbench.methods.layers.region_style import KERNEL, LAYERS, StyleBranch, StyleEncoder
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


class Ace(nn.Module):
    """Normalisation modulated by label map and style codes, with noise (figure 3 of the paper; the
    official code calls it ACE).

    Args:
        channels: C.
        label_channels: channels of the label map.
        hidden: width of the mask branch.
        kind: normalisation and kernel.
        style: the style branch, or None (last block).
    """

    def __init__(
        self,
        channels: int,
        label_channels: int,
        hidden: int,
        kind: NormKind,
        style: StyleBranch | None,
    ) -> None:
        super().__init__()
        self.norm = kind.build(channels)
        self.mask = MaskBranch(channels, label_channels, hidden, kind.kernel)
        self.noise_var = nn.Parameter(torch.zeros(channels))
        self.style = style
        if style is not None:
            self.blend = nn.Parameter(torch.zeros(2))

    def forward(
        self, x: Tensor, labels: LabelPyramid, codes: Tensor, noise: NoiseSource, name: str
    ) -> Tensor:
        """x (B, C, h, w) -> the same shape; draws ``name`` (1, h, w) from ``noise``."""
        level = labels.at((x.shape[2], x.shape[3]))
        if not isinstance(noise, ZeroNoise):
            drawn = draw(noise, name, x.shape[0], 1, *x.shape[2:], like=x)
            x = torch.addcmul(x, drawn, self.noise_var[:, None, None])
        values = self.mask(level)
        if self.style is not None:
            share = torch.sigmoid(self.blend).repeat_interleave(x.shape[1])  # (2C,)
            values = torch.lerp(values, self.style(codes, level), share)
        return modulate(x, self.norm, level, values)

    def map_keys(self, keys: KeyMap, name: str, ours: str) -> None:
        """Cover this layer; the batch norm inside of the official mask branch is never used."""
        self.mask.map_keys(keys, f"{ours}.mask", f"{name}.Spade")
        keys.take(f"{ours}.noise_var", f"{name}.noise_var")
        for buffer, value in self.norm.named_buffers():
            keys.take(f"{ours}.norm.{buffer}", f"{name}.param_free_norm.{buffer}")
            keys.unused(f"{name}.Spade.param_free_norm.{buffer}", tuple(value.shape))
        blends = [f"{name}.blending_gamma", f"{name}.blending_beta"]
        if self.style is None:
            for key in blends:
                keys.unused(key, (1,))
        else:
            keys.join(
                f"{ours}.blend",
                dict.fromkeys(blends, (1,)),
                lambda found: torch.cat([found[b] for b in blends]),
            )
            self.style.map_keys(keys, name, f"{ours}.style")


class Generator(nn.Module):
    """Label map and style codes to photograph; holds the style encoder, as the official file does.

    Args:
        classes: channels of the label map, each a style region.
        ngf, cap: width factor, and a bound on every width (None officially).
        hidden: width of the mask branches.
        start: (h, w) of the first block.
        mode: upsampling mode.
        kind: normalisation and kernel.
        styles: per-class linear layers of an ACE layer.
        length: length of a code.
        encoder_width: channels of the style encoder's first convolution.
    """

    def __init__(
        self,
        classes: int,
        ngf: int,
        cap: int | None,
        hidden: int,
        start: tuple[int, int],
        mode: str,
        kind: NormKind,
        styles: int,
        length: int,
        encoder_width: int,
    ) -> None:
        super().__init__()
        self.steps = generator_steps(ngf, mode, cap)
        self.classes, self.kind = classes, kind
        self.start, self.width = start, self.steps[0].fin
        self.encoder = StyleEncoder(encoder_width, length)
        self.fc = LabelConv(classes, self.width, 3)
        for step in self.steps:
            styled = step.name != "up_3"

            def make(channels: int, styled: bool = styled) -> Ace:
                style = StyleBranch(channels, styles, length) if styled else None
                return Ace(channels, classes, hidden, kind, style)

            self.add_module(step.name, Block(step.fin, step.fout, make))
        self.conv_img = nn.Conv2d(self.steps[-1].fout, 3, 3, padding=1)

    def forward(self, label: Tensor, codes: Tensor, noise: NoiseSource) -> Tensor:
        """label (B, H, W) int64, codes (B, K, length) -> (B, 3, h, w) in [-1, 1]."""
        labels = LabelPyramid(label, self.classes, KERNEL, per_sample=True)
        height, width = self.start
        level = Level(
            resize_labels_torch(label, self.start), self.classes, KERNEL, None, dense=True
        )
        x = self.fc(level).view(-1, height, width, self.width).permute(0, 3, 1, 2)
        for step in self.steps:
            if step.up:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            block: Block = getattr(self, step.name)
            x = block(
                x,
                lambda layer, y, which, at=step.name: layer(
                    y, labels, codes, noise, f"{at}.ace_{which}"
                ),
            )
        return torch.tanh(self.conv_img(leaky(x)))

    def map_keys(self, keys: KeyMap) -> None:
        """Cover the generator and the style encoder."""
        positions = dict(zip(LAYERS, (1, 4, 7, 10, 14), strict=True))
        names = {layer: f"Zencoder.model.{at}" for layer, at in positions.items()}
        self.encoder.map_keys(keys, "encoder.", names)
        self.fc.map_keys(keys, "fc", "fc")
        for step in self.steps:
            block: Block = getattr(self, step.name)
            block.map_keys(keys, step.name, self.kind.spectral)
            for which in ("0", "1", "s"):
                layer = getattr(block, f"norm_{which}")
                if layer is not None:
                    layer.map_keys(keys, f"{step.name}.ace_{which}", f"{step.name}.norm_{which}")
        keys.same()


class Networks(nn.Module):
    """The generator under its official name."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.netG = generator
