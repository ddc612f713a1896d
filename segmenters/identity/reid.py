"""The person network of REIDSim and REIDAcc: ResNet-50, self-supervised on LUPerson."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models import resnet50

from sisbench.segmenters.identity.base import Identity
from sisbench.segmenters.loading import Part

_HEIGHT, _WIDTH = 256, 128


class PersonReID(Identity):
    """ResNet-50 whose last stage keeps stride 16; mean over space, 2048 values, not normalised.

    The crop goes in at [-1, 1], without mean and standard deviation, and batch norm uses its
    running statistics: SCAM's code leaves both as they come, and the mode of batch norm undefined.
    """

    name = "reid"
    title = "LUPerson ResNet-50"
    paper = "Fu et al., CVPR 2021, arXiv:2012.03753; use: Dufour et al., SCAM, arXiv:2210.04883"
    dim = 2048
    fixed = {  # noqa: RUF012
        "depth": "50",
        "last_stride": 1,
        "norm": "BN",
        "ibn": False,
        "se": False,
        "nonlocal": False,
    }

    def parts(self) -> dict[str, Part]:
        """``reid``: ``lup_moco_r50.pth``."""
        network = resnet50(weights=None)
        network.fc = nn.Identity()  # type: ignore[assignment]
        first = network.layer4[0]
        first.conv2.stride = first.downsample[0].stride = (1, 1)
        return {"reid": Part(network, "reid", "lup_moco_r50.pth")}

    def embeddings(self, images: Tensor, boxes: Tensor | None) -> Tensor:
        """(B, 2048), all >= 0."""
        if boxes is None:
            height, width = images.shape[-2:]
            boxes = torch.tensor([[0, height, 0, width]]).expand(len(images), 4)
        return self.loaded()["reid"](crop(images, boxes, (_HEIGHT, _WIDTH)).div_(127.5).sub_(1))


def crop(images: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear crops of one size (align_corners=False, no antialiasing), all in one go.

    Args:
        images: (B, 3, H, W) uint8 or float.
        boxes: (B, 4) int64 top, bottom, left, right, the ends exclusive.
        size: (h, w) of the crops; the aspect is not kept.

    Returns:
        (B, 3, h, w) float32 in the range of ``images``. No pixel outside a box enters its crop.
    """
    boxes = boxes.to(images.device)
    top, bottom, down = _lines(boxes[:, 0], boxes[:, 1], size[0])
    left, right, across = _lines(boxes[:, 2], boxes[:, 3], size[1])
    batch = torch.arange(len(images), device=images.device)[:, None, None, None]
    channel = torch.arange(3, device=images.device)[None, :, None, None]

    def at(row: Tensor, column: Tensor) -> Tensor:
        rows, columns = row[:, None, :, None], column[:, None, None, :]
        return images[batch, channel, rows, columns].float()

    across = across[:, None, None, :]
    upper = torch.lerp(at(top, left), at(top, right), across)
    lower = torch.lerp(at(bottom, left), at(bottom, right), across)
    return torch.lerp(upper, lower, down[:, None, :, None])


def _lines(start: Tensor, end: Tensor, n_out: int) -> tuple[Tensor, Tensor, Tensor]:
    """Per box and output line: the two source lines and the weight of the second, (B, n_out)."""
    length = (end - start)[:, None]
    centre = torch.arange(n_out, device=start.device, dtype=torch.float32) + 0.5
    position = (centre * (length / n_out) - 0.5).clamp(min=0)
    first = position.long()
    second = torch.minimum(first + 1, length - 1)
    return start[:, None] + first, start[:, None] + second, position - first
