"""Styles of regions as SEAN has them: the encoder, and the modulation by one code a class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sisbench.core.resize import resize_labels_torch
from sisbench.methods.layers.label_maps import Level
from sisbench.methods.layers.labels import region_means
from sisbench.methods.layers.spade import leaky, with_empty

if TYPE_CHECKING:
    from sisbench.methods.key_map import KeyMap

KERNEL = 3
"""Size of every convolution over label maps and style maps."""
LAYERS = ("conv_in", "down_1", "down_2", "up", "conv_out")
"""Layers of the style encoder in their order."""


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

    def forward(self, codes: Tensor, level: Level, kept: Tensor | None = None) -> Tensor:
        """codes (B, K, length) -> values by window (U, 2C), as ``Level.spread`` of a level per
        sample takes them; gamma first. ``kept`` (K,) says which linear layers they are for, if not
        the first K."""
        batch, count, _ = codes.shape
        chosen = slice(count) if kept is None else kept
        weight, bias = self.fc_weight[chosen], self.fc_bias[chosen]
        vectors = F.relu(
            torch.baddbmm(bias[:, None], codes.transpose(0, 1), weight.mT)
        )  # (K, B, S)
        rows = vectors.transpose(0, 1).reshape(batch * count, self.length) @ self.weight.flatten(1)
        table = rows.view(batch, count, *self.weight.shape[1:])
        offset = level.centre_samples * ((count + 1) * self.weight.shape[1])
        taps = level.centre_taps + offset[:, None]
        return F.embedding_bag(taps, with_empty(table), mode="sum") + self.bias

    def map_keys(
        self,
        keys: KeyMap,
        name: str,
        ours: str,
        fc: str = "fc_mu{}",
        convs: tuple[str, str] = ("conv_gamma", "conv_beta"),
    ) -> None:
        """Cover the linear layers, ``fc`` in the file, and the two convolutions ``convs``."""
        styles, shape = self.fc_weight.shape[0], (self.channels, self.length, KERNEL, KERNEL)
        for end in ("weight", "bias"):
            linear = [f"{name}.{fc.format(j)}.{end}" for j in range(styles)]
            keys.stack(f"{ours}.fc_{end}", linear)
        pair = [f"{name}.{conv}" for conv in convs]
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


class StyleEncoder(nn.Module):
    """Photograph and label map to one code a class (section 3.1 of the paper).

    Args:
        width: channels of the first convolution (32 officially).
        length: length of a code.
        norm_last: instance norm also before the last tanh (SEAN-CLADE).
    """

    def __init__(self, width: int, length: int, norm_last: bool = False) -> None:
        super().__init__()
        self.norm_last = norm_last
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
        x = self.conv_out(x)
        return torch.tanh(F.instance_norm(x) if self.norm_last else x)

    def forward(self, image: Tensor, label: Tensor, classes: int) -> Tensor:
        """image, label (B, H, W) int64 -> codes (B, classes, length), zero for absent classes."""
        features = self.features(image)
        return region_means(features, resize_labels_torch(label, _size(features)), classes)

    def map_keys(self, keys: KeyMap, ours: str, official: Mapping[str, str]) -> None:
        """Cover the encoder, at ``ours`` (empty or ending in a dot); ``official`` names each of
        ``LAYERS`` in the file."""
        for layer in LAYERS:
            for end in ("weight", "bias"):
                keys.take(f"{ours}{layer}.{end}", f"{official[layer]}.{end}")


def _size(x: Tensor) -> tuple[int, int]:
    return x.shape[2], x.shape[3]
