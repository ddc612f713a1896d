"""Pix2PixHD's generators and feature encoder (Wang et al. 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sisbench.methods.layers.labels import one_hot
from sisbench.methods.layers.winograd import ReflectConv3
from sisbench.methods.pix2pixhd.label_conv import KERNEL, RADIUS, FirstConv

if TYPE_CHECKING:
    from sisbench.methods.key_map import KeyMap


def _active(x: Tensor) -> Tensor:
    return F.relu(F.instance_norm(x), inplace=not torch.is_grad_enabled())


class ReflectConv7(nn.Conv2d):
    """Reflection padding by 3 and a 7x7 convolution."""

    def __init__(self, fin: int, fout: int) -> None:
        super().__init__(fin, fout, KERNEL)

    def forward(self, x: Tensor) -> Tensor:
        """(B, fin, h, w) -> (B, fout, h, w)."""
        return super().forward(F.pad(x, (RADIUS,) * 4, mode="reflect"))


class ResidualBlock(nn.Module):
    """x + two 3x3 convolutions with instance norm, continued by reflection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_0, self.conv_1 = (ReflectConv3(channels, channels) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape."""
        return x + F.instance_norm(self.conv_1(_active(self.conv_0(x))))

    def map_keys(self, keys: KeyMap, ours: str, official: str) -> None:
        """Cover this block."""
        for conv, at in (("conv_0", 1), ("conv_1", 5)):
            for end in ("weight", "bias"):
                keys.take(f"{ours}.{conv}.{end}", f"{official}.conv_block.{at}.{end}")


def down(fin: int, fout: int) -> nn.Conv2d:
    """A convolution that halves the size."""
    return nn.Conv2d(fin, fout, 3, stride=2, padding=1)


def up(fin: int, fout: int) -> nn.ConvTranspose2d:
    """A transposed convolution that doubles the size."""
    return nn.ConvTranspose2d(fin, fout, 3, stride=2, padding=1, output_padding=1)


class Trunk(nn.Module):
    """Halvings, residual blocks, doublings; widths double and halve along.

    Args:
        width: channels at full size.
        steps: halvings.
        blocks: residual blocks.
    """

    def __init__(self, width: int, steps: int, blocks: int) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(steps + 1)]
        self.down = nn.ModuleList(down(widths[i], widths[i + 1]) for i in range(steps))
        self.blocks = nn.ModuleList(ResidualBlock(widths[-1]) for _ in range(blocks))
        self.up = nn.ModuleList(up(widths[i], widths[i - 1]) for i in range(steps, 0, -1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W), sides multiples of 2**steps -> the same shape."""
        for layer in self.down:
            x = _active(layer(x))
        for block in self.blocks:
            x = block(x)
        for layer in self.up:
            x = _active(layer(x))
        return x

    def map_keys(self, keys: KeyMap, ours: str) -> int:
        """Cover the trunk, which begins at ``model.4``; returns the position after it."""
        at = 4
        for name, step in (("down", 3), ("blocks", 1), ("up", 3)):
            for i, layer in enumerate(getattr(self, name)):
                if isinstance(layer, ResidualBlock):
                    layer.map_keys(keys, f"{ours}.{name}.{i}", f"model.{at}")
                else:
                    _take(keys, f"{ours}.{name}.{i}", f"model.{at}")
                at += step
        return at


def _take(keys: KeyMap, ours: str, official: str) -> None:
    for end in ("weight", "bias"):
        keys.take(f"{ours}.{end}", f"{official}.{end}")


class GlobalGenerator(nn.Module):
    """Label map and further channels to photograph.

    Args:
        classes: channels of the one-hot map.
        further: channels of edges and features.
        width: channels after the first convolution.
        steps, blocks: see ``Trunk``.
    """

    def __init__(self, classes: int, further: int, width: int, steps: int, blocks: int) -> None:
        super().__init__()
        self.first = FirstConv(classes, further, width)
        self.trunk = Trunk(width, steps, blocks)
        self.last = ReflectConv7(width, 3)

    def forward(self, label: Tensor, further: Tensor) -> Tensor:
        """label (B, H, W) int64, further (B, F, H, W) -> (B, 3, H, W) in [-1, 1]."""
        return torch.tanh(self.last(self.trunk(_active(self.first(label, further)))))

    def map_keys(self, keys: KeyMap) -> None:
        """Cover the whole generator."""
        self.first.map_keys(keys, "first", "model.1")
        _take(keys, "last", f"model.{self.trunk.map_keys(keys, 'trunk') + 1}")


class LocalGenerator(nn.Module):
    """The two-stage generator: features of a global part at half size join an enhancer.

    Args:
        classes, further: as for ``GlobalGenerator``.
        width: channels after the enhancer's first convolution; the global part has twice as many.
        steps, blocks: of the global part.
        local_blocks: residual blocks of the enhancer.
    """

    def __init__(
        self, classes: int, further: int, width: int, steps: int, blocks: int, local_blocks: int
    ) -> None:
        super().__init__()
        self.classes = classes
        self.coarse = ReflectConv7(classes + further, 2 * width)
        self.trunk = Trunk(2 * width, steps, blocks)
        self.first = FirstConv(classes, further, width)
        self.down = down(width, 2 * width)
        self.blocks = nn.ModuleList(ResidualBlock(2 * width) for _ in range(local_blocks))
        self.up = up(2 * width, width)
        self.last = ReflectConv7(width, 3)

    def forward(self, label: Tensor, further: Tensor) -> Tensor:
        """As ``GlobalGenerator.forward``; sides are multiples of 2**(steps + 1)."""
        planes = torch.cat([one_hot(label, self.classes), further], 1)
        half = F.avg_pool2d(planes, 3, 2, 1, count_include_pad=False)
        x = _active(self.down(_active(self.first(label, further))))
        x = x + self.trunk(_active(self.coarse(half)))
        for block in self.blocks:
            x = block(x)
        return torch.tanh(self.last(_active(self.up(x))))

    def map_keys(self, keys: KeyMap) -> None:
        """Cover the whole generator."""
        _take(keys, "coarse", "model.1")
        self.trunk.map_keys(keys, "trunk")
        self.first.map_keys(keys, "first", "model1_1.1")
        _take(keys, "down", "model1_1.4")
        for i, block in enumerate(self.blocks):
            assert isinstance(block, ResidualBlock)
            block.map_keys(keys, f"blocks.{i}", f"model1_2.{i}")
        count = len(self.blocks)
        _take(keys, "up", f"model1_2.{count}")
        _take(keys, "last", f"model1_2.{count + 4}")


class Encoder(nn.Module):
    """Photograph to features at every pixel, which the method averages over regions.

    Args:
        features: output channels.
        width: channels after the first convolution.
        steps: halvings.
    """

    def __init__(self, features: int, width: int, steps: int) -> None:
        super().__init__()
        self.first = ReflectConv7(3, width)
        self.trunk = Trunk(width, steps, 0)
        self.last = ReflectConv7(width, features)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, features, H, W) in (-1, 1)."""
        return torch.tanh(self.last(self.trunk(_active(self.first(image)))))

    def map_keys(self, keys: KeyMap) -> None:
        """Cover the encoder."""
        _take(keys, "first", "model.1")
        _take(keys, "last", f"model.{self.trunk.map_keys(keys, 'trunk') + 1}")


class Networks(nn.Module):
    """Generator and, if there are features, the encoder under their official names."""

    def __init__(
        self, generator: GlobalGenerator | LocalGenerator, encoder: Encoder | None
    ) -> None:
        super().__init__()
        self.netG, self.netE = generator, encoder

    def fold(self) -> None:
        """Prepare the residual blocks for inference."""
        for module in self.modules():
            if isinstance(module, ReflectConv3):
                module.fold()
