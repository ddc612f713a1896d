"""BiSeNet, the face parser of many editing tools (``79999_iter.pth``); main output only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet18

from sisbench.core.fit import Shape
from sisbench.core.resize import resize_bilinear_pil
from sisbench.segmenters.base import parse_size
from sisbench.segmenters.loading import Part
from sisbench.segmenters.network_parser import IMAGENET_MEAN, IMAGENET_STD, NetworkParser, normalise

if TYPE_CHECKING:
    from sisbench.core.label_space import LabelSpace

TO_CELEBAMASK = (0, 1, 6, 7, 4, 5, 3, 8, 9, 15, 2, 10, 11, 12, 17, 16, 18, 13, 14)
"""CelebAMask-HQ label of each BiSeNet label."""

_AUXILIARY = ("conv_out16", "conv_out32")  # heads for training


class ConvBNReLU(nn.Module):
    """Conv without bias, batch norm, ReLU; the size stays."""

    def __init__(self, i: int, o: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(i, o, kernel, 1, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(o)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu_(self.bn(self.conv(x)))


class AttentionRefinement(nn.Module):
    """(B, i, h, w) -> (B, 128, h, w), weighted channel by channel by its own global mean."""

    def __init__(self, i: int) -> None:
        super().__init__()
        self.conv = ConvBNReLU(i, 128)
        self.conv_atten = nn.Conv2d(128, 128, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(128)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        weight = self.bn_atten(self.conv_atten(x.mean((2, 3), keepdim=True)))
        return x * weight.sigmoid()


class ContextPath(nn.Module):
    """ResNet-18 features, refined from 1/32 up to 1/8."""

    def __init__(self) -> None:
        super().__init__()
        self.resnet = resnet18(weights=None)
        self.resnet.fc = nn.Identity()  # type: ignore[assignment]
        self.arm16 = AttentionRefinement(256)
        self.arm32 = AttentionRefinement(512)
        self.conv_head32 = ConvBNReLU(128, 128)
        self.conv_head16 = ConvBNReLU(128, 128)
        self.conv_avg = ConvBNReLU(512, 128, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> ResNet's (B, 128, H/8, W/8) and the context, of the same shape."""
        r = self.resnet
        x = r.layer1(r.maxpool(r.relu(r.bn1(r.conv1(x)))))
        at8 = r.layer2(x)
        at16 = r.layer3(at8)
        at32 = r.layer4(at16)
        whole = self.conv_avg(at32.mean((2, 3), keepdim=True))
        x = F.interpolate(self.arm32(at32) + whole, at16.shape[2:])  # nearest
        x = F.interpolate(self.arm16(at16) + self.conv_head32(x), at8.shape[2:])
        return at8, self.conv_head16(x)


class FeatureFusion(nn.Module):
    """Two (B, 128, h, w) maps -> (B, 256, h, w)."""

    def __init__(self) -> None:
        super().__init__()
        self.convblk = ConvBNReLU(256, 256, 1)
        self.conv1 = nn.Conv2d(256, 64, 1, bias=False)
        self.conv2 = nn.Conv2d(64, 256, 1, bias=False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        x = self.convblk(torch.cat([a, b], 1))
        weight = self.conv2(F.relu(self.conv1(x.mean((2, 3), keepdim=True)))).sigmoid()
        return x * weight + x


class Head(nn.Module):
    """(B, i, h, w) -> logits (B, n_classes, h, w) through ``middle`` channels."""

    def __init__(self, i: int, middle: int, n_classes: int) -> None:
        super().__init__()
        self.conv = ConvBNReLU(i, middle)
        self.conv_out = nn.Conv2d(middle, n_classes, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(self.conv(x))


class BiSeNet(nn.Module):
    """(B, 3, H, W) normalised floats -> logits (B, n_classes, H, W)."""

    def __init__(self, n_classes: int = 19) -> None:
        super().__init__()
        self.cp = ContextPath()
        self.ffm = FeatureFusion()
        self.conv_out = Head(256, 256, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.conv_out(self.ffm(*self.cp(x)))
        return F.interpolate(logits, x.shape[2:], mode="bilinear", align_corners=True)


class BiSeNetFace(NetworkParser):
    """BiSeNet with 19 classes at 512 x 512, its labels put in the order of CelebAMask-HQ.

    It was trained on part masks painted in another order (glasses over eyes, hair over neck), and
    on all 30,000 images: its scores are not comparable with those of the papers.

    Args:
        space: ``celebamask_hq``.
        input_size: side or (height, width) at which images are parsed and compared.
    """

    name = "bisenet_face"
    title = "BiSeNet (faces)"
    paper = "Yu et al., BiSeNet, ECCV 2018, arXiv:1808.00897 (face parser by zllrunning)"
    spaces = ("celebamask_hq",)
    weights = "bisenet_face"
    fixed = {"n_classes": 19}  # noqa: RUF012

    def __init__(self, space: LabelSpace, *, input_size: int | tuple[int, int] = 512) -> None:
        self.size = height, width = parse_size(input_size, self.name)
        super().__init__(space, input_size=[height, width])

    def parts(self) -> dict[str, Part]:
        """``bisenet``: ``79999_iter.pth``, whose two training heads are left out."""
        unused: dict[str, Shape] = {}
        for head in _AUXILIARY:
            for key, value in Head(128, 64, 19).state_dict().items():
                unused[f"{head}.{key}"] = tuple(value.shape)
        return {"bisenet": Part(BiSeNet(19), self.weights, "79999_iter.pth", unused)}

    @torch.inference_mode()
    def logits(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 -> (B, 19, h, w) float32 at ``compare_size``, BiSeNet's own order."""
        size = self.compare_size((images.shape[-2], images.shape[-1]))
        x = normalise(resize_bilinear_pil(images, size), IMAGENET_MEAN, IMAGENET_STD)
        return self.loaded()["bisenet"](x)

    def predict(self, images: Tensor) -> Tensor:
        """Class of the highest logit, in the order of CelebAMask-HQ."""
        order = torch.tensor(TO_CELEBAMASK, device=images.device)
        return order[self.logits(images).argmax(1)]
