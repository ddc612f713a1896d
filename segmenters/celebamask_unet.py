"""The CelebAMask-HQ face parser: the small U-Net with which CA2-SIS and SCA-DM score faces."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sisbench.core.errors import UserError
from sisbench.core.resize import resize_bilinear_pil, resize_labels_pil
from sisbench.segmenters.base import parse_size
from sisbench.segmenters.loading import Part
from sisbench.segmenters.network_parser import NetworkParser, normalise

if TYPE_CHECKING:
    from sisbench.core.label_space import LabelSpace

_HALF = (0.5, 0.5, 0.5)
_RESIZES = ("nearest", "bilinear", "bicubic_align")


class DoubleConv(nn.Module):
    """Conv 3x3, batch norm, ReLU, twice: (B, i, h, w) -> (B, o, h, w)."""

    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.conv1 = self._stage(i, o)
        self.conv2 = self._stage(o, o)

    @staticmethod
    def _stage(i: int, o: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(i, o, 3, 1, 1), nn.BatchNorm2d(o), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x))


class UpBlock(nn.Module):
    """Enlarge twice, append to the kept map, DoubleConv: (B, i, h, w) -> (B, o, 2h, 2w)."""

    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.conv = DoubleConv(i, o)
        self.up = nn.ConvTranspose2d(i, o, 2, 2)

    def forward(self, kept: Tensor, x: Tensor) -> Tensor:
        return self.conv(torch.cat([kept, self.up(x)], 1))


class UNet(nn.Module):
    """(B, 3, H, W) float in [-1, 1], sides multiples of 16 -> logits (B, n_classes, H, W)."""

    def __init__(self, n_classes: int = 19, feature_scale: int = 4) -> None:
        super().__init__()
        a, b, c, d, e = (64 * 2**k // feature_scale for k in range(5))
        self.conv1 = DoubleConv(3, a)
        self.conv2 = DoubleConv(a, b)
        self.conv3 = DoubleConv(b, c)
        self.conv4 = DoubleConv(c, d)
        self.center = DoubleConv(d, e)
        self.up_concat4 = UpBlock(e, d)
        self.up_concat3 = UpBlock(d, c)
        self.up_concat2 = UpBlock(c, b)
        self.up_concat1 = UpBlock(b, a)
        self.final = nn.Conv2d(a, n_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.conv1(x)
        x2 = self.conv2(F.max_pool2d(x1, 2))
        x3 = self.conv3(F.max_pool2d(x2, 2))
        x4 = self.conv4(F.max_pool2d(x3, 2))
        x = self.up_concat4(x4, self.center(F.max_pool2d(x4, 2)))
        x = self.up_concat2(x2, self.up_concat3(x3, x))
        return self.final(self.up_concat1(x1, x))


class CelebAMaskUNet(NetworkParser):
    """The U-Net of the CelebAMask-HQ repository (``model.pth``, 19 classes, 512 x 512).

    Args:
        space: ``celebamask_hq``; any other one with ``n_classes``, for weights of your own.
        n_classes: classes of the weights; must be as many as ``space`` has.
        feature_scale: divides the widths 64 .. 1024.
        input_size: side or (height, width) at which images are parsed and compared; the official
            network knows 512 only and gives poor labels at 256.
        resize: ``nearest`` (official: it also enlarges by repeating pixels), ``bilinear``
            (Pillow's), ``bicubic_align`` (torch, align_corners=True, on the normalised image).

    Raises:
        UserError: a size that 16 does not divide, another resize, another label space.
    """

    name = "celebamask_unet"
    title = "CelebAMask-HQ U-Net"
    paper = "Lee et al., MaskGAN, CVPR 2020, arXiv:1907.11922 (face parser of its repository)"
    weights = "celebamask_unet"
    fixed = {"is_deconv": True, "is_batchnorm": True, "in_channels": 3}  # noqa: RUF012

    def __init__(
        self,
        space: LabelSpace,
        *,
        n_classes: int | None = None,
        feature_scale: int = 4,
        input_size: int | tuple[int, int] = 512,
        resize: str = "nearest",
    ) -> None:
        self.size = height, width = parse_size(input_size, self.name)
        if height % 16 or width % 16:
            raise UserError(f"{self.name}: 16 must divide input_size, got {input_size}")
        if resize not in _RESIZES:
            raise UserError(f"{self.name}: resize is one of {', '.join(_RESIZES)}, got {resize!r}")
        if n_classes is None and space.name != "celebamask_hq":
            raise UserError(
                f"{self.name} parses into celebamask_hq, not into '{space.name}'",
                f"with weights trained for it, say so: n_classes={len(space)}",
            )
        self.n_classes = n_classes or 19
        if self.n_classes != len(space):
            raise UserError(
                f"{self.name} has {self.n_classes} classes, '{space.name}' has {len(space)}"
            )
        self.feature_scale, self.resize = feature_scale, resize
        super().__init__(
            space,
            n_classes=self.n_classes,
            feature_scale=feature_scale,
            input_size=[height, width],
            resize=resize,
        )

    def parts(self) -> dict[str, Part]:
        """``unet``: ``model.pth``."""
        network = UNet(self.n_classes, self.feature_scale)
        return {"unet": Part(network, self.weights, "model.pth")}

    @torch.inference_mode()
    def logits(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 -> (B, n_classes, h, w) float32 at ``compare_size``."""
        size = self.compare_size((images.shape[-2], images.shape[-1]))
        if self.resize == "bicubic_align":
            x = normalise(images, _HALF, _HALF)
            x = F.interpolate(x, size, mode="bicubic", align_corners=True)
        else:
            bring = resize_labels_pil if self.resize == "nearest" else resize_bilinear_pil
            x = normalise(bring(images, size), _HALF, _HALF)
        return self.loaded()["unet"](x)

    def predict(self, images: Tensor) -> Tensor:
        """Class of the highest logit, in the order of CelebAMask-HQ."""
        return self.logits(images).argmax(1)
