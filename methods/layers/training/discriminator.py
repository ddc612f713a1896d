"""The multi-scale patch discriminator of the SPADE family (Wang et al. 2018; Park et al. 2019)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sisbench.methods.layers.training.spectral import normalised

SLOPE = 0.2
WIDEST = 8
"""Channels double from stage to stage up to this many times those of the first."""


class PatchDiscriminator(nn.Module):
    """One scale: 4x4 convolutions with padding 2, logits of patches at the end.

    Args:
        channels: of label map and photograph together.
        ndf: channels of the first stage.
        n_layers: stages before the prediction.
        last_stride: stride of the last of them (SPADE 1, SEAN 2).
        spectral: whether the inner convolutions are spectrally normalised, and have no bias.
    """

    def __init__(
        self, channels: int, ndf: int, n_layers: int, last_stride: int, spectral: bool = True
    ) -> None:
        super().__init__()
        widths = [min(2**i, WIDEST) * ndf for i in range(n_layers)]
        first = nn.Conv2d(channels, ndf, 4, stride=2, padding=2)
        self.stages = nn.ModuleList([first])
        for i in range(1, n_layers):
            stride = last_stride if i == n_layers - 1 else 2
            conv = nn.Conv2d(
                widths[i - 1], widths[i], 4, stride=stride, padding=2, bias=not spectral
            )
            self.stages.append(normalised(conv) if spectral else conv)
        self.predict = nn.Conv2d(widths[-1], 1, 4, padding=2)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, channels, H, W) -> features of every stage, then the logits (B, 1, h, w)."""
        found = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            x = F.leaky_relu(F.instance_norm(x) if i else x, SLOPE)
            found.append(x)
        return [*found, self.predict(x)]


class MultiScaleDiscriminator(nn.Module):
    """Patch discriminators on the picture and on its halved forms.

    Args:
        label_channels: channels of the label map.
        ndf, n_layers, last_stride, spectral: see ``PatchDiscriminator``.
        scales: number of networks.
    """

    def __init__(
        self,
        label_channels: int,
        ndf: int,
        n_layers: int,
        scales: int,
        last_stride: int,
        spectral: bool = True,
    ) -> None:
        super().__init__()
        channels = label_channels + 3
        self.scales = nn.ModuleList(
            PatchDiscriminator(channels, ndf, n_layers, last_stride, spectral)
            for _ in range(scales)
        )

    def forward(self, semantics: Tensor, image: Tensor) -> list[list[Tensor]]:
        """semantics (B, C, H, W), image (B, 3, H, W) -> for each scale features and logits.
        Samples do not touch each other."""
        x = torch.cat([semantics, image], 1)
        found = []
        for i, network in enumerate(self.scales):
            if i:
                x = F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
            found.append(network(x))
        return found
