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
from sisbench.methods.layers.labels import region_means
from sisbench.methods.layers.spade import (
    Block,
    LabelConv,
    MaskBranch,
    NormKind,
    generator_steps,
    leaky,
    modulate,
    with_empty,
)

if TYPE_CHECKING:
    from sisbench.methods.key_map import KeyMap

KERNEL = 3
"""Size of every convolution over label maps and style maps."""


class StyleBranch(nn.Module):
    """gamma and beta from one code a class (section 3.2 of the paper).

    The official code paints relu(fc_mu_c(code_c)) into a map and convolves it twice. The map is
    constant within a class, so the convolutions' weights are contracted with the K vectors first
    and the result is a convolution of the one-hot label map.

    Args:
        channels: C of the features that are modulated.
        styles: number of per-class linear layers.
        length: length of a code.
    """

    def __init__(self, channels: int, styles: int, length: int) -> None:
        super().__init__()
        self.channels, self.length = channels, length
        self.fc_weight = nn.Parameter(torch.randn(styles, length, length) * length**-0.5)
        self.fc_bias = nn.Parameter(torch.zeros(styles, length))
        taps = KERNEL * KERNEL
        self.weight = nn.Parameter(
            torch.randn(length, taps, 2 * channels) * (length * taps) ** -0.5
        )
        self.bias = nn.Parameter(torch.zeros(2 * channels))

    def forward(self, codes: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        """codes (B, K, length) -> (B, K + 1, 2C) by class and (P, 2C) at the mixed pixels, as
        ``Level.spread`` takes them; gamma first."""
        batch, count, _ = codes.shape
        weight, bias = self.fc_weight[:count], self.fc_bias[:count]
        vectors = F.relu(
            torch.baddbmm(bias[:, None], codes.transpose(0, 1), weight.mT)
        )  # (K, B, S)
        rows = vectors.transpose(0, 1).reshape(batch * count, -1) @ self.weight.flatten(1)
        table = rows.view(batch, count, *self.weight.shape[1:])
        by_class = F.pad(table.sum(2), (0, 0, 0, 1)) + self.bias
        offset = level.mixed_samples * ((count + 1) * self.weight.shape[1])
        taps = level.mixed_taps + offset[:, None]
        return by_class, F.embedding_bag(taps, with_empty(table), mode="sum") + self.bias

    def map_keys(self, keys: KeyMap, name: str, ours: str) -> None:
        """Cover fc_mu<j>, conv_gamma and conv_beta."""
        styles, shape = self.fc_weight.shape[0], (self.channels, self.length, KERNEL, KERNEL)
        for end in ("weight", "bias"):
            keys.stack(f"{ours}.fc_{end}", [f"{name}.fc_mu{j}.{end}" for j in range(styles)])
        pair = [f"{name}.conv_gamma", f"{name}.conv_beta"]
        keys.join(
            f"{ours}.weight",
            dict.fromkeys([f"{p}.weight" for p in pair], shape),
            lambda found: (
                torch.cat([found[f"{p}.weight"] for p in pair]).flatten(2).permute(1, 2, 0)
            ),
        )
        keys.join(
            f"{ours}.bias",
            dict.fromkeys([f"{p}.bias" for p in pair], (self.channels,)),
            lambda found: torch.cat([found[f"{p}.bias"] for p in pair]),
        )


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
        by_class, mixed = self.mask(level)
        if self.style is not None:
            share = torch.sigmoid(self.blend).repeat_interleave(x.shape[1])  # (2C,)
            styled_class, styled_mixed = self.style(codes, level)
            by_class = torch.lerp(by_class.expand_as(styled_class), styled_class, share)
            mixed = torch.lerp(mixed, styled_mixed, share)
        return modulate(x, self.norm, level, by_class, mixed)

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


class StyleEncoder(nn.Module):
    """Photograph and label map to one code a class (section 3.1 of the paper).

    Args:
        width: channels of the first convolution (32 officially).
        length: length of a code.
    """

    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, width, 3, padding=1, padding_mode="reflect")
        self.down_1 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.down_2 = nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(4 * width, 8 * width, 3, 2, padding=1, output_padding=1)
        self.conv_out = nn.Conv2d(8 * width, length, 3, padding=1, padding_mode="reflect")

    def features(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, length, H/2, W/2) in (-1, 1)."""
        x = image.contiguous(memory_format=torch.channels_last)
        for layer in (self.conv_in, self.down_1, self.down_2, self.up):
            x = leaky(F.instance_norm(layer(x)))
        return torch.tanh(self.conv_out(x))

    def forward(self, image: Tensor, label: Tensor, classes: int) -> Tensor:
        """image, label (B, H, W) int64 -> codes (B, classes, length), zero for absent classes."""
        features = self.features(image)
        return region_means(features, resize_labels_torch(label, _size(features)), classes)

    def map_keys(self, keys: KeyMap, name: str, ours: str) -> None:
        """Cover the encoder; official names are positions in a sequence."""
        layers = {"conv_in": 1, "down_1": 4, "down_2": 7, "up": 10, "conv_out": 14}
        for layer, position in layers.items():
            for end in ("weight", "bias"):
                keys.take(f"{ours}.{layer}.{end}", f"{name}.model.{position}.{end}")


def _size(x: Tensor) -> tuple[int, int]:
    return x.shape[2], x.shape[3]


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
        labels = LabelPyramid(label, self.classes, KERNEL)
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
        self.encoder.map_keys(keys, "Zencoder", "encoder")
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
