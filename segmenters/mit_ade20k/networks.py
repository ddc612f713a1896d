"""Encoder and decoders of MIT's scene parsers: deep-stem ResNet, PPM and UPerNet."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from sisbench.core.fit import Shape

_POOLS = (1, 2, 3, 6)
_DEPTHS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
CLASSES = 150


def enlarge(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear (align_corners=False) to the height and width of ``like``."""
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)


def conv_bn(i: int, o: int, kernel: int = 1) -> nn.Sequential:
    """Convolution without bias and batch norm; the size stays. ReLU is left to the caller."""
    return nn.Sequential(nn.Conv2d(i, o, kernel, 1, kernel // 2, bias=False), nn.BatchNorm2d(o))


class Encoder(nn.Module):
    """(B, 3, H, W) -> four maps of 256, 512, 1024, 2048 channels.

    Args:
        name: ``resnet50``, ``resnet101``; with the ending ``dilated``, the last two stages keep
            stride 8 and widen their kernels instead (same weights).
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        dilated = name.endswith("dilated")
        depths = _DEPTHS[name.removesuffix("dilated")]
        self.conv1 = nn.Conv2d(3, 64, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = nn.Conv2d(64, 64, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.conv3 = nn.Conv2d(64, 128, 3, 1, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(128)
        self.layer1 = _stage(128, 64, depths[0], 1)
        self.layer2 = _stage(256, 128, depths[1], 2)
        self.layer3 = _stage(512, 256, depths[2], 2, (1, 2) if dilated else None)
        self.layer4 = _stage(1024, 512, depths[3], 2, (2, 4) if dilated else None)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.relu_(self.bn1(self.conv1(x)))
        x = F.relu_(self.bn2(self.conv2(x)))
        x = F.relu_(self.bn3(self.conv3(x)))
        maps = [self.layer1(F.max_pool2d(x, 3, 2, 1))]
        for layer in (self.layer2, self.layer3, self.layer4):
            maps.append(layer(maps[-1]))
        return maps


def _stage(
    i: int, width: int, depth: int, stride: int, dilation: tuple[int, int] | None = None
) -> nn.Sequential:
    """Bottlenecks; ``dilation`` of the first and of the others replaces the stride."""
    first, others = dilation or (1, 1)
    stride = 1 if dilation else stride
    shortcut = nn.Sequential(
        nn.Conv2d(i, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
    )
    blocks = [Bottleneck(i, width, stride, shortcut, dilation=first)]
    blocks += [Bottleneck(4 * width, width, dilation=others) for _ in range(depth - 1)]
    return nn.Sequential(*blocks)


class PPM(nn.Module):
    """Pyramid pooling on the last map (``ppm_deepsup`` without its training branch).

    Maps -> logits (B, 150, h, w) at the stride of the last map.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ppm = nn.ModuleList(
            # the official index 0 is the pooling itself
            nn.Sequential(nn.AdaptiveAvgPool2d(s), *conv_bn(2048, 512), nn.ReLU(inplace=True))
            for s in _POOLS
        )
        self.conv_last = nn.Sequential(
            *conv_bn(4096, 512, 3),
            nn.ReLU(inplace=True),
            nn.Identity(),  # dropout in training
            nn.Conv2d(512, CLASSES, 1),
        )

    @staticmethod
    def unused_shapes() -> dict[str, Shape]:
        """Keys of the training branch on the third map."""
        convs = {
            "cbr_deepsup": conv_bn(1024, 512, 3),
            "conv_last_deepsup": nn.Conv2d(512, CLASSES, 1),
        }
        return {k: tuple(v.shape) for k, v in nn.ModuleDict(convs).state_dict().items()}

    def forward(self, maps: list[Tensor]) -> Tensor:
        last = maps[-1]
        pooled = [enlarge(branch(last), last) for branch in self.ppm]
        return self.conv_last(torch.cat([last, *pooled], 1))


class UPerNet(nn.Module):
    """Pyramid pooling, feature pyramid and fusion: maps -> logits (B, 150, h, w) at stride 4."""

    def __init__(self) -> None:
        super().__init__()
        self.ppm_conv = nn.ModuleList(conv_bn(2048, 512) for _ in _POOLS)
        self.ppm_last_conv = conv_bn(4096, 512, 3)
        self.fpn_in = nn.ModuleList(conv_bn(i, 512) for i in (256, 512, 1024))
        self.fpn_out = nn.ModuleList(nn.Sequential(conv_bn(512, 512, 3)) for _ in range(3))
        self.conv_last = nn.Sequential(
            nn.Sequential(*conv_bn(2048, 512, 3), nn.ReLU(inplace=True)),
            nn.Conv2d(512, CLASSES, 1),
        )

    @staticmethod
    def unused_shapes() -> dict[str, Shape]:
        """None: this decoder has no training branch."""
        return {}

    def pyramid(self, last: Tensor) -> Tensor:
        """Pyramid pooling of the last map (B, 2048, h, w) -> (B, 512, h, w).

        Officially each pooled map is enlarged first and convolved then. Both are linear, a 1x1
        convolution acts on channels alone, and bilinear weights sum to 1: the order can change,
        and the convolution then sees at most 36 pixels. Only the ReLU has to wait.
        """
        branches = zip(_POOLS, self.ppm_conv)
        pooled = [
            F.relu_(enlarge(conv(F.adaptive_avg_pool2d(last, s)), last)) for s, conv in branches
        ]
        return F.relu_(self.ppm_last_conv(torch.cat([last, *pooled], 1)))

    def forward(self, maps: list[Tensor]) -> Tensor:
        top = f = self.pyramid(maps[-1])
        outputs: list[Tensor] = []
        for level in (2, 1, 0):
            lateral = F.relu_(self.fpn_in[level](maps[level]))
            f = lateral.add_(enlarge(f, lateral))
            outputs.insert(0, F.relu_(self.fpn_out[level](f)))
        finest = outputs[0]
        fused = [finest, *(enlarge(x, finest) for x in (*outputs[1:], top))]
        return self.conv_last(torch.cat(fused, 1))
