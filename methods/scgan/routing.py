"""Semantic vector generation (section 3.2 of the SC-GAN paper): from the layout to one vector of
expert weights a pixel, at six sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sisbench.core.resize import resize_labels_torch
from sisbench.methods.layers.label_maps import LabelPyramid, Level
from sisbench.methods.layers.labels import interpolate_nearest, one_hot
from sisbench.methods.layers.spade import leaky, with_empty

if TYPE_CHECKING:
    from sisbench.methods.key_map import KeyMap

LEVELS = 6
"""Sizes of the layout, from the generator's start to the picture."""


@dataclass(frozen=True)
class Blur:
    """A Gaussian that is not normalised (its centre is 1), masked by the layout itself.

    Attributes:
        size, sigma: side of the window (odd) and standard deviation in pixels.
        iterations: how often it is applied; the mask stays that of the first input.
        relative: whether each iterate is divided by the one before.
    """

    size: int
    sigma: float
    iterations: int
    relative: bool

    def __call__(self, label: Tensor, strength: Tensor) -> Tensor:
        """New strengths of a layout whose pixel p is ``strength[p]`` in the channel ``label[p]``.

        The mask leaves each pixel in its own channel, so that one plane says it all: the sum over
        the neighbours of the same class.

        Args:
            label: (B, h, w) int64; -1 for no class.
            strength: (B, h, w) float.
        """
        found = strength
        for _ in range(self.iterations):
            step = self._correlate(label, found) * strength
            found = step / (found + 1e-8) if self.relative else step
        return found

    def _correlate(self, label: Tensor, strength: Tensor) -> Tensor:
        r, (height, width) = self.size // 2, label.shape[1:]
        labels, values = F.pad(label, (r,) * 4, value=-2), F.pad(strength, (r,) * 4)
        line = torch.exp(-((torch.arange(self.size) - r) ** 2) / (2 * self.sigma**2)).tolist()
        total = torch.zeros_like(strength)
        for i, row in enumerate(line):
            for j, column in enumerate(line):
                here = (slice(None), slice(i, i + height), slice(j, j + width))
                same = labels[here] == label
                total.addcmul_(same.to(values.dtype), values[here], value=row * column)
        return total


@dataclass(frozen=True)
class Pyramid:
    """How a layout is brought to the six sizes.

    Attributes:
        classes: channels of the one-hot map.
        blur: None without layout blurring.
        every_level: blur and halve the class map (nearest); else the channels are averaged.
        rng: with ``every_level``, level i is blurred where 6 - i is below this.
    """

    classes: int
    blur: Blur | None
    every_level: bool
    rng: int

    def __call__(self, label: Tensor) -> list[Tensor | None]:
        """(B, H, W) -> six planes (B, classes, h, w), smallest first; None stands for the plain
        one-hot map."""
        if not self.every_level:
            return self._averaged(label)
        one = torch.ones(label.shape, device=label.device)
        full = one if self.blur is None else self.blur(label, one)
        planes: list[Tensor | None] = [None if self.blur is None else self._planes(label, full)]
        strength = one
        for level in reversed(range(LEVELS - 1)):
            half = (label.shape[1] // 2, label.shape[2] // 2)
            label, strength = resize_labels_torch(label, half), resize_labels_torch(strength, half)
            if self.blur is not None and LEVELS - level < self.rng:
                strength = self.blur(label, strength)
            planes.append(self._planes(label, strength))
        return planes[::-1]

    def _averaged(self, label: Tensor) -> list[Tensor | None]:
        """Halved by bilinear interpolation, which is the mean of 2x2 pixels."""
        current = one_hot(label, self.classes)
        planes: list[Tensor | None] = [None]
        if self.blur is not None:
            one = torch.ones(label.shape, device=label.device)
            current = self._planes(label, self.blur(label, one))
            planes = [current]
        for _ in range(LEVELS - 1):
            current = F.avg_pool2d(current, 2)
            planes.append(current)
        return planes[::-1]

    def _planes(self, label: Tensor, strength: Tensor) -> Tensor:
        return one_hot(label, self.classes) * strength[:, None]


class Routing(nn.Module):
    """Layout to routing logits of every level, and to an auxiliary image.

    Args:
        pyramid: how the layout is prepared.
        width: the width factor nrf.
        experts: maps that the features are pooled to, one number a kind of expert.
    """

    def __init__(self, pyramid: Pyramid, width: int, experts: tuple[int, int]) -> None:
        super().__init__()
        self.pyramid, self.experts = pyramid, experts
        s, wide = pyramid.classes, [16, 8, 4, 2, 1, 1]
        self.labelDec1 = nn.Sequential(
            nn.Conv2d(s, 16 * width, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(16 * width, 16 * width, 3, padding=1),
        )
        for k in range(2, LEVELS + 1):
            fin, fout = wide[k - 2] * width, wide[k - 1] * width
            stage = nn.Sequential(
                nn.LeakyReLU(0.2),
                nn.Conv2d(fin + s, fout, 3, padding=1),
                nn.LeakyReLU(0.2),
                nn.Conv2d(fout, fout, 3, padding=1),
            )
            self.add_module(f"labelDec{k}", stage)
        self.toRGB = nn.Sequential(
            nn.Conv2d(width, width // 2, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width // 2, 3, 3, padding=1),
            nn.Hardtanh(),
        )

    def features(self, label: Tensor) -> list[Tensor]:
        """(B, H, W) int64 -> features of the six levels, smallest first."""
        planes = self.pyramid(label)
        first = planes[0]
        assert first is not None
        x = self.labelDec1(first)
        found = [x]
        for k in range(2, LEVELS + 1):
            stage = getattr(self, f"labelDec{k}")
            x = stage[2](self._joined(stage[1], x, planes[k - 1], label))
            x = stage[3](x)
            found.append(x)
        return found

    def _joined(self, conv: nn.Conv2d, x: Tensor, planes: Tensor | None, label: Tensor) -> Tensor:
        """conv(leaky(cat(x twice as large, layout))); the layout has no negative numbers."""
        x = interpolate_nearest(leaky(x))
        if planes is not None:
            return conv(torch.cat([x, planes], 1))
        channels = x.shape[1]
        if torch.is_grad_enabled() and conv.weight.requires_grad:
            return conv(torch.cat([x, one_hot(label, self.pyramid.classes)], 1))
        size = (x.shape[2], x.shape[3])
        level = LabelPyramid(label, self.pyramid.classes, convs=1).at(size)
        out = F.conv2d(x, conv.weight[:, :channels], conv.bias, padding=1)
        return out + looked_up(conv.weight[:, channels:], level)

    def forward(self, label: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Routing logits of convolution and norm experts, (B, E, h, w) each, smallest level
        first."""
        return [self.logits(x) for x in self.features(label)]

    def logits(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, C, h, w) pooled to (B, E, h, w) for either kind of expert."""
        conv, norm = self.experts
        pooled = pool_channels(features, conv)
        return pooled, pooled if norm == conv else pool_channels(features, norm)

    def map_keys(self, keys: KeyMap, prefix: str, spectral: bool) -> None:
        """Cover every stage; the names are the official ones."""
        for k in range(1, LEVELS + 1):
            for i, layer in enumerate(getattr(self, f"labelDec{k}")):
                if isinstance(layer, nn.Conv2d) and spectral:
                    keys.spectral(f"{prefix}labelDec{k}.{i}.weight")


def looked_up(weight: Tensor, level: Level) -> Tensor:
    """A 3x3 convolution of the one-hot map, without bias: (out, K, 3, 3) -> (B, out, h, w)."""
    table = weight.permute(1, 2, 3, 0).flatten(1, 2)  # (K, 9, out)
    return level.spread(F.embedding_bag(level.centre_taps, with_empty(table), mode="sum"))


def pool_channels(x: Tensor, bins: int) -> Tensor:
    """Adaptive average pooling over channels: (B, C, h, w) -> (B, bins, h, w). The bins overlap
    where their number does not divide C."""
    c = x.shape[1]
    if c % bins == 0:
        return x.unflatten(1, (bins, c // bins)).mean(2)
    edges = [(i * c // bins, -(-(i + 1) * c // bins)) for i in range(bins)]
    return torch.stack([x[:, low:high].mean(1) for low, high in edges], 1)


def weights_of(logits: tuple[Tensor, Tensor], temperature: float) -> tuple[Tensor, Tensor]:
    """Softmax over the experts of temperature * logits, for convolutions and norms."""
    conv, norm = logits
    first = torch.softmax(conv * temperature, 1)
    return first, first if norm is conv else torch.softmax(norm * temperature, 1)
