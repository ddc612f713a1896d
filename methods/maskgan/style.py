"""MaskGAN's spatial-aware style encoder: a photograph, steered by its label map, to one vector."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from sisbench.methods.layers.reflected_labels import ReflectedLabelConv

if TYPE_CHECKING:
    from sisbench.methods.key_map import KeyMap

_WIDTH = 64


class Conv(nn.Module):
    """A convolution with reflected borders, under the official name ``conv``."""

    def __init__(self, fin: int, fout: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            fin, fout, kernel, stride, padding=kernel // 2 - (stride - 1), padding_mode="reflect"
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, fin, h, w) -> (B, fout, h, w), or half that size with stride 2."""
        return self.conv(x)


class LabelStem(nn.Module):
    """The first layer of the label encoder, under the official name ``conv``."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv = ReflectedLabelConv(classes, 16, 7)

    def forward(self, label: Tensor) -> Tensor:
        """(B, H, W) -> (B, 16, H, W)"""
        return self.conv(label)


def _halvings(*widths: int) -> list[nn.Module]:
    return [Conv(a, b, 4, 2) for a, b in pairwise(widths)]


def _run(layers: list[nn.Module], x: Tensor) -> Tensor:
    """Each layer with a ReLU behind."""
    for layer in layers:
        x = F.relu(layer(x), inplace=True)
    return x


class LabelEncoder(nn.Module):
    """Label map to features at a quarter and at a 32nd of its size."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.model = nn.ModuleList([LabelStem(classes), *_halvings(16, 32, _WIDTH)])
        self.model_last = nn.ModuleList([nn.ReLU(), *_halvings(*[_WIDTH] * 4)])

    def forward(self, label: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, W) int64 -> (B, 64, H/4, W/4), (B, 64, H/32, W/32), both without activation."""
        *first, last = self.model
        quarter = last(_run(first, label))
        _, *second, last = self.model_last
        return quarter, last(_run(second, F.relu(quarter)))

    def map_keys(self, keys: KeyMap) -> None:
        """Cover the first layer."""
        stem = self.model[0]
        assert isinstance(stem, LabelStem)
        name = "enc_label.model.0.conv"
        stem.conv.map_keys(keys, name, name)


class SFT(nn.Module):
    """Features scaled and shifted by others (spatial feature transform)."""

    def __init__(self) -> None:
        super().__init__()
        self.SFT_scale_conv1 = nn.Conv2d(_WIDTH, _WIDTH, 1)
        self.SFT_scale_conv2 = nn.Conv2d(_WIDTH, _WIDTH, 1)
        self.SFT_shift_conv1 = nn.Conv2d(_WIDTH, _WIDTH, 1)
        self.SFT_shift_conv2 = nn.Conv2d(_WIDTH, _WIDTH, 1)

    def forward(self, x: Tensor, by: Tensor) -> Tensor:
        """(B, 64, h, w) each -> x * scale(by) + shift(by)"""
        scale = self.SFT_scale_conv2(F.leaky_relu(self.SFT_scale_conv1(by), 0.1))
        shift = self.SFT_shift_conv2(F.leaky_relu(self.SFT_shift_conv1(by), 0.1))
        return x * scale + shift


class StyleEncoder(nn.Module):
    """Photograph and label features to the AdaIN parameters of the whole generator."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.model = nn.ModuleList([Conv(3, 16, 7, 1), *_halvings(16, 32, _WIDTH)])
        self.model_middle = nn.ModuleList(_halvings(*[_WIDTH] * 4))
        self.model_last = nn.ModuleList([nn.AdaptiveAvgPool2d(1), nn.Conv2d(_WIDTH, length, 1)])
        self.sft1, self.sft2 = SFT(), SFT()

    def forward(self, image: Tensor, quarter: Tensor, small: Tensor) -> Tensor:
        """image (B, 3, H, W), features of the label encoder -> (B, length)"""
        x = self.sft1(_run(list(self.model), image), quarter)
        x = self.sft2(_run(list(self.model_middle), x), small)
        pool, head = self.model_last
        return head(pool(x)).flatten(1)
