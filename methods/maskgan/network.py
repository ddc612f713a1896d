"""MaskGAN's Dense Mapping Network and alpha blender (sections 3.2 and 3.3 of the paper)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sisbench.methods.layers.reflected_labels import ReflectedLabelConv
from sisbench.methods.maskgan.style import LabelEncoder, StyleEncoder

if TYPE_CHECKING:
    from sisbench.methods.key_map import KeyMap


def normed(x: Tensor) -> Tensor:
    """ReLU of the instance norm."""
    return F.relu(F.instance_norm(x), inplace=True)


class ConvBlock(nn.Module):
    """Reflection, 3x3 convolution and instance statistics."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect")

    def forward(self, x: Tensor, bias: Tensor | None, scale: Tensor | None) -> Tensor:
        """x (B, C, h, w); bias, scale (B, C), or None for a plain norm."""
        x = self.conv(x)
        if bias is None or scale is None:
            return F.instance_norm(x)
        # y = norm(x) * scale + bias: one sample's channels as the channels of a batch of one
        rows = x.reshape(1, -1, *x.shape[2:])
        return F.instance_norm(rows, weight=scale.flatten(), bias=bias.flatten()).view_as(x)


class ResBlock(nn.Module):
    """Residual block of two convolutions; with AdaIN its parameters come from the style."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_block = nn.ModuleList([ConvBlock(channels), ConvBlock(channels)])

    def forward(self, x: Tensor, style: Tensor | None = None) -> Tensor:
        """x (B, C, h, w), style (B, 2, 2, C): (layer, bias | scale), or None."""
        parts = [(None, None)] * 2 if style is None else [style[:, i].unbind(1) for i in (0, 1)]
        first, second = self.conv_block
        return x + second(F.relu(first(x, *parts[0])), *parts[1])


class Down(nn.Conv2d):
    """3x3 convolution of stride 2 that doubles the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 2 * channels, 3, stride=2, padding=1)


class Up(nn.ConvTranspose2d):
    """Its counterpart: twice the size, half the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels // 2, 3, stride=2, padding=1, output_padding=1)


class Backbone(nn.Module):
    """What generator and blender share: down, residual blocks, up; official indices in ``model``.

    Args:
        first: the first layer.
        out: output channels.
        ngf: its channels.
        downs, blocks: halvings and residual blocks.
    """

    def __init__(self, first: nn.Module, out: int, ngf: int, downs: int, blocks: int) -> None:
        super().__init__()
        self.downs, self.blocks, self.width = downs, blocks, ngf * 2**downs
        last = nn.Conv2d(ngf, out, 7, padding=3, padding_mode="reflect")
        layers: dict[int, nn.Module] = {1: first}
        for i in range(downs):
            layers[4 + 3 * i] = Down(ngf * 2**i)
            layers[self.middle + blocks + 3 * i] = Up(self.width // 2**i)
        for i in range(blocks):
            layers[self.middle + i] = ResBlock(self.width)
        layers[self.middle + blocks + 3 * downs + 1] = last
        self.model = nn.ModuleDict({str(i): layers[i] for i in sorted(layers)})

    @property
    def middle(self) -> int:
        """Official index of the first residual block."""
        return 4 + 3 * self.downs

    def forward(self, x: Tensor, style: Tensor | None = None) -> Tensor:
        """x: what the first layer takes; style (B, blocks, 2, 2, C) or None
        -> (B, out, H, W), before the last activation."""
        layers, up = iter(self.model.values()), self.downs
        x = normed(next(layers)(x))
        for _ in range(up):
            x = normed(next(layers)(x))
        for i in range(self.blocks):
            x = next(layers)(x, None if style is None else style[:, i])
        for _ in range(up):
            x = normed(next(layers)(x))
        return next(layers)(x)


class Generator(Backbone):
    """Label map, and the AdaIN parameters of a style, to photograph.

    Args:
        classes: classes of the label map.
        ngf: width factor.
        downs, blocks: halvings, and residual blocks at the smallest size.
    """

    def __init__(self, classes: int, ngf: int, downs: int, blocks: int) -> None:
        super().__init__(ReflectedLabelConv(classes, ngf, 7), 3, ngf, downs, blocks)
        self.style_length = 4 * blocks * self.width
        self.enc_style = StyleEncoder(self.style_length)
        self.enc_label = LabelEncoder(classes)

    def encode(self, image: Tensor, label: Tensor) -> Tensor:
        """image (B, 3, H, W) in [-1, 1] with its label map (B, H, W) -> (B, style_length): block by
        block and layer by layer, biases, then scales."""
        return self.enc_style(image, *self.enc_label(label))

    def draw(self, label: Tensor, style: Tensor) -> Tensor:
        """label (B, H, W) int64, style (B, style_length) -> (B, 3, H, W) in [-1, 1]."""
        return torch.tanh(self(label, style.view(len(style), self.blocks, 2, 2, self.width)))

    def map_keys(self, keys: KeyMap) -> None:
        """Cover the generator; the statistics that its AdaIN layers keep are never read."""
        first = self.model["1"]
        assert isinstance(first, ReflectedLabelConv)
        first.map_keys(keys, "model.1", "model.1")
        self.enc_label.map_keys(keys)
        for i in range(self.blocks):
            for j in (0, 1):
                for name in ("running_mean", "running_var"):
                    key = f"model.{self.middle + i}.conv_block.{j}.norm.{name}"
                    keys.unused(key, (self.width,))
        keys.same()


class Blender(Backbone):
    """Two photographs to the map that blends them (section 3.3 of the paper).

    Args:
        input_nc, output_nc: channels: two photographs, a weight for each channel.
        ngf: width factor.
        n_downsampling, n_blocks: halvings and residual blocks.
        norm: instance.
    """

    def __init__(
        self,
        input_nc: int = 6,
        output_nc: int = 3,
        ngf: int = 32,
        n_downsampling: int = 3,
        n_blocks: int = 3,
        norm: str = "instance",
    ) -> None:
        if norm != "instance":
            raise ValueError(f"norm must be instance, got {norm!r}")
        first = nn.Conv2d(input_nc, ngf, 7, padding=3, padding_mode="reflect")
        super().__init__(first, output_nc, ngf, n_downsampling, n_blocks)

    def blend(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Two (B, 3, H, W) in [-1, 1] -> first * alpha + second * (1 - alpha), and alpha in [0, 1],
        both (B, 3, H, W)."""
        alpha = torch.sigmoid(self(torch.cat([first, second], 1)))
        return torch.lerp(second, first, alpha), alpha

    def map_keys(self, keys: KeyMap) -> None:
        """Cover the blender."""
        keys.same()
