"""The style encoder of CA2-SIS and SCA-DM: one convolution group a class, several resolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sisbench.core.errors import UserError
from sisbench.core.resize import resize_labels_torch
from sisbench.methods.layers.labels import one_hot
from sisbench.methods.layers.norms import GroupNorm

_AREA_EPS = 1e-5


class GroupedStyleEncoder(nn.Module):
    """One code a class, concatenated from several resolutions (CA2-SIS section III-B; SCA-DM
    section 3.2).

    Halved ``halvings`` times, then doubled ``levels`` times with skip connections; every doubling
    is pooled over the regions of the label map and projected to ``code_dim`` numbers a class. No
    mask enters the convolutions. A class that is absent at a level's resolution pools to zero there
    and gets the constant tanh(bias).

    The trained networks concatenate the skip connection *behind* the decoder's channels and cut the
    result into one chunk a class: a group reads neighbouring classes of one of the two. Kept.

    Args:
        num_classes: classes of the label map, which are the groups.
        base: features a class after the first layer.
        code_dim: numbers a class and level.
        halvings: stride-2 layers.
        levels: number of resolutions, fewer than ``halvings``.
        grouped: False gives the ablation: plain convolutions and instance norm.
    """

    def __init__(
        self,
        num_classes: int,
        base: int = 4,
        code_dim: int = 256,
        halvings: int = 6,
        levels: int = 5,
        grouped: bool = True,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.code_dim = code_dim
        self.halvings = halvings
        self.levels = levels
        groups = num_classes if grouped else 1
        width = [base * num_classes * 2**i for i in range(halvings + 1)]

        def block(inp: int, out: int, stride: int, conv_groups: int) -> list[nn.Module]:
            norm = GroupNorm(num_classes, out) if grouped else nn.InstanceNorm2d(out)
            return [nn.Conv2d(inp, out, 3, stride, 1, groups=conv_groups), norm, nn.ReLU(True)]

        self.Encoder = nn.ModuleDict({"first_layer": nn.Sequential(*block(3, width[0], 1, 1))})
        for i in range(halvings):
            self.Encoder[f"enc_layer_{i}"] = nn.Sequential(
                *block(width[i], width[i + 1], 2, groups)
            )
        self.Decoder = nn.ModuleDict()
        self.out = nn.ModuleDict()
        for i in range(levels):
            out = width[halvings - 1 - i]
            inp = width[halvings] if i == 0 else 2 * width[halvings - i]
            twice = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
            self.Decoder[f"dec_layer_{i}"] = nn.Sequential(twice, *block(inp, out, 1, groups))
            head = nn.Conv1d(out, code_dim * num_classes, 1, groups=groups)
            self.out[f"out_{i}"] = nn.Sequential(head, nn.Tanh())

    def forward(self, image: Tensor, label: Tensor) -> Tensor:
        """Codes of every class, absent ones included.

        Args:
            image: (B, 3, H, W) float in [-1, 1]; H and W multiples of 2**halvings.
            label: (B, H, W) int64 below ``num_classes``; -1 belongs to no class.

        Returns:
            (B, num_classes, levels * code_dim), coarsest level first.

        Raises:
            UserError: a size that cannot be halved often enough.
        """
        step = 2**self.halvings
        if image.shape[-2] % step or image.shape[-1] % step:
            raise UserError(
                f"the style encoder takes sides that are multiples of {step}, "
                f"got {tuple(image.shape[-2:])}"
            )
        x = self.Encoder["first_layer"](image)
        skips = []
        for i in range(self.halvings):
            x = self.Encoder[f"enc_layer_{i}"](x)
            skips.append(x)
        skips.pop()
        codes = []
        for i in range(self.levels):
            if i:
                x = torch.cat([x, skips.pop()], 1)
            x = self.Decoder[f"dec_layer_{i}"](x)
            codes.append(self._pool(x, label, i))
        return torch.cat(codes, 2)

    def _pool(self, x: Tensor, label: Tensor, level: int) -> Tensor:
        """(B, C*g, h, w) -> (B, C, code_dim): a class's channels averaged over its own region."""
        b, c = x.shape[0], self.num_classes
        small = resize_labels_torch(label, (x.shape[-2], x.shape[-1]))
        planes = one_hot(small, c, x.dtype).flatten(2).unsqueeze(2)  # (B, C, 1, h*w)
        # A sum is added up pairwise; a matrix product over 16384 pixels loses a digit to that.
        sums = (x.reshape(b, c, -1, planes.shape[3]) * planes).sum(3)  # (B, C, g)
        pooled = sums / (planes.sum(3) + _AREA_EPS)
        return self.out[f"out_{level}"](pooled.reshape(b, -1, 1)).reshape(b, c, self.code_dim)
