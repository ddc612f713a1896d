"""The instance encoder of V-INADE: convolutions that stay within instances, then instance means."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sisbench.core.resize import resize_labels_torch
from sisbench.methods.layers.labels import one_hot

_TAPS = [(dy, dx) for dy in range(3) for dx in range(3)]
_OUTSIDE = -2  # an id that no pixel has: hole pixels are -1


class InstanceConv(nn.Conv2d):
    """3x3 convolution, padding 1, that leaves out taps of another instance than the centre's.

    The number of taps left is not made up for. Nine shifted products need no ninefold copy.
    """

    def __init__(self, fin: int, fout: int, stride: int = 1) -> None:
        super().__init__(fin, fout, 3, stride=stride, padding=1)

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:  # type: ignore[override]
        """x (B, D, h, w) with even h and w, ids (B, H, W) of any size -> (B, E, h/s, w/s)."""
        step = self.stride[0]
        height, width = x.shape[2] // step, x.shape[3] // step
        ids = resize_labels_torch(ids, (x.shape[2], x.shape[3]))
        centre = ids[:, ::step, ::step]
        ids, x = F.pad(ids, (1, 1, 1, 1), value=_OUTSIDE), F.pad(x, (1, 1, 1, 1))
        assert self.bias is not None
        out = self.bias[:, None].expand(x.shape[0], -1, height * width)
        for dy, dx in _TAPS:
            rows = slice(dy, dy + step * (height - 1) + 1, step)
            columns = slice(dx, dx + step * (width - 1) + 1, step)
            same = ids[:, rows, columns] == centre
            tap = (x[:, :, rows, columns] * same[:, None]).flatten(2)  # (B, D, h*w)
            out = torch.baddbmm(out, self.weight[:, :, dy, dx].expand(x.shape[0], -1, -1), tap)
        return out.unflatten(2, (height, width))


class Encoder(nn.Module):
    """Photograph and instance ids to the statistics of each instance's noise; names of modules are
    the official ones."""

    def __init__(self, noise_nc: int, n: int) -> None:
        super().__init__()
        self.layer1 = InstanceConv(3, n, 2)
        self.layer2 = InstanceConv(n, 2 * n, 2)
        self.layer3 = InstanceConv(2 * n, 4 * n, 2)
        self.layer4 = InstanceConv(4 * n, 8 * n, 2)
        self.middle = InstanceConv(8 * n, 4 * n)
        self.up1 = InstanceConv(8 * n, 2 * n)
        self.up2 = InstanceConv(4 * n, n)
        self.up3 = InstanceConv(2 * n, n)
        self.scale_conv_mu = nn.Conv2d(n, noise_nc, 3, padding=1)
        self.scale_conv_var = nn.Conv2d(n, noise_nc, 3, padding=1)
        self.bias_conv_mu = nn.Conv2d(n, noise_nc, 3, padding=1)
        self.bias_conv_var = nn.Conv2d(n, noise_nc, 3, padding=1)

    def forward(self, image: Tensor, ids: Tensor, slots: int) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the noise of each instance.

        Args:
            image: (B, 3, H, W) in [-1, 1], H and W divisible by 16.
            ids: (B, H, W) int64 instance slots in [0, slots); -1 for none.
            slots: number of slots K.

        Returns:
            mu and logvar, (B, K, 2, noise_nc) each (0: scale, 1: shift); an empty slot has zeros,
            which is the prior.
        """
        x1 = _act(self.layer1(image, ids))
        x2 = _act(self.layer2(x1, ids))
        x3 = _act(self.layer3(x2, ids))
        y = _up(_act(self.middle(_act(self.layer4(x3, ids)), ids)))
        y = _up(_act(self.up1(torch.cat([y, x3], 1), ids)))
        y = _up(_act(self.up2(torch.cat([y, x2], 1), ids)))
        y = _up(_act(self.up3(torch.cat([y, x1], 1), ids)))
        return self.statistics(y, ids, slots)

    def statistics(self, y: Tensor, ids: Tensor, slots: int) -> tuple[Tensor, Tensor]:
        """The four last convolutions, averaged over each instance.

        Both steps are linear: each tap's features are averaged first, then weighted once a slot
        instead of once a pixel.
        """
        convs = [self.scale_conv_mu, self.bias_conv_mu, self.scale_conv_var, self.bias_conv_var]
        weight = torch.stack([conv.weight for conv in convs])  # (4, noise_nc, n, 3, 3)
        bias = torch.stack([conv.get_parameter("bias") for conv in convs])  # (4, noise_nc)
        ids = resize_labels_torch(ids, (y.shape[2], y.shape[3]))
        area = one_hot(ids, slots, y.dtype).sum((2, 3))  # (B, K)
        means = instance_tap_sums(y, ids, slots) / area.clamp_min(1)[:, :, None, None]
        out = torch.einsum("bktd,sndt->bksn", means, weight.flatten(3)) + bias
        out = out * (area > 0)[:, :, None, None]  # (B, K, 4, noise_nc)
        return out[:, :, :2], out[:, :, 2:]


def instance_tap_sums(y: Tensor, ids: Tensor, slots: int) -> Tensor:
    """What each of nine taps sees, summed over the centres of an instance: (B, K, 9, D).

    A pixel q counts for tap (dy, dx) when the centre q - (dy, dx) is of its own instance.
    """
    padded = F.pad(ids, (1, 1, 1, 1), value=_OUTSIDE)
    height, width = ids.shape[1:]
    features = y.flatten(2).transpose(1, 2)  # (B, h*w, D)
    sums = []
    for dy, dx in _TAPS:
        centre = padded[:, 2 - dy : 2 - dy + height, 2 - dx : 2 - dx + width]
        counted = ids.masked_fill(centre != ids, -1)
        sums.append(one_hot(counted, slots, y.dtype).flatten(2) @ features)  # (B, K, D)
    return torch.stack(sums, 2)


def _act(x: Tensor) -> Tensor:
    return F.leaky_relu(F.instance_norm(x, eps=1e-5), 0.2)


def _up(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
