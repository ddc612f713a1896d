"""The INADE generator: residual blocks whose normalisation looks its modulation up by segment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sisbench.core.resize import resize_labels_torch
from sisbench.methods.inade.options import Config
from sisbench.methods.inade.segments import Segments
from sisbench.methods.layers.labels import interpolate_nearest
from sisbench.methods.layers.scam_frame import TWICE, Frame, FrameGenerator

if TYPE_CHECKING:
    from sisbench.methods.key_map import KeyMap

_SLOPE = 0.2


@dataclass
class Condition:
    """What every normalisation layer of one forward pass looks up.

    Attributes:
        segments: the (class, instance) pairs of the label maps.
        noise: (B, P, 2, noise_nc), of each segment: for the scale and for the shift.
        sketch: (B, H, W) in {0, 1}, or None.
    """

    segments: Segments
    noise: Tensor
    sketch: Tensor | None = None
    _rows: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def rows(self, size: tuple[int, int]) -> Tensor:
        """(B, h, w) rows of a flat (B * (P + 1)) table; the last row of a sample is for holes."""
        if size not in self._rows:
            index = resize_labels_torch(self.segments.index, size)
            step = self.segments.classes.shape[1] + 1
            start = torch.arange(index.shape[0], device=index.device) * step
            self._rows[size] = index + start[:, None, None]
        return self._rows[size]


class InstanceAdaptiveNorm(nn.Module):
    """Batch normalisation with a scale and a shift for each (class, instance); no "1 +".

    scale = weight[class, :, 0] * fc(noise of the scale) + bias[class, :, 0]; the shift likewise. A
    pixel without a class gets 0 for both.
    """

    def __init__(self, channels: int, config: Config) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(config.classes, channels, 2))
        self.bias = nn.Parameter(torch.zeros(config.classes, channels, 2))
        self.fc_noise = nn.Linear(config.noise_nc, channels)
        self.param_free_norm: nn.Module = nn.BatchNorm2d(channels, affine=False)
        if config.sketch:
            self.sketch_conv = nn.Conv2d(1, channels, 3, padding=1)
            self.merge_conv = nn.Conv2d(2 * channels, channels, 1, bias=False)

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        """x (B, D, h, w) -> the same shape."""
        x, scale, shift = self.normalised(x, *self.tables(condition))
        table = F.pad(torch.cat([scale, shift], 2), (0, 0, 0, 1)).flatten(0, 1)
        rows = condition.rows((x.shape[2], x.shape[3]))
        maps = F.embedding(rows, table).permute(0, 3, 1, 2)  # (B, 2D, h, w), channels last
        scales, shifts = maps.chunk(2, 1)
        y = torch.addcmul(shifts, scales, x)
        return y if condition.sketch is None else self.merge(y, condition.sketch)

    def normalised(self, x: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features, scale and shift whose product and sum modulate the normalised features."""
        norm = self.param_free_norm
        if self.training or not isinstance(norm, nn.BatchNorm2d):
            return norm(x), scale, shift
        assert norm.running_var is not None  # with running statistics it is one more scale, shift
        assert norm.running_mean is not None
        scale = scale * torch.rsqrt(norm.running_var + norm.eps)
        return x, scale, shift - scale * norm.running_mean

    def tables(self, condition: Condition) -> tuple[Tensor, Tensor]:
        """Scale and shift of each segment, (B, P, D) each."""
        driven = self.fc_noise(condition.noise).transpose(2, 3)  # (B, P, D, 2)
        classes = condition.segments.classes
        modulation = torch.addcmul(self.bias[classes], self.weight[classes], driven)
        scale, shift = modulation.unbind(3)
        return scale, shift

    def merge(self, y: Tensor, sketch: Tensor) -> Tensor:
        """Join the features of the sketch (B, H, W)."""
        small = resize_labels_torch(sketch, (y.shape[2], y.shape[3]))[:, None].to(y.dtype)
        return self.merge_conv(torch.cat([y, self.sketch_conv(small)], 1))


class Block(nn.Module):
    """Residual block: norm, LeakyReLU, 3x3 convolution, twice; a learned 1x1 shortcut where the
    width changes."""

    def __init__(self, fin: int, fout: int, config: Config) -> None:
        super().__init__()
        middle = min(fin, fout)
        self.conv_0 = nn.Conv2d(fin, middle, 3, padding=1)
        self.conv_1 = nn.Conv2d(middle, fout, 3, padding=1)
        self.norm_0 = InstanceAdaptiveNorm(fin, config)
        self.norm_1 = InstanceAdaptiveNorm(middle, config)
        self.learned = fin != fout
        if self.learned:
            self.conv_s = nn.Conv2d(fin, fout, 1, bias=False)
            self.norm_s = InstanceAdaptiveNorm(fin, config)

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        """x (B, fin, h, w) -> (B, fout, h, w)."""
        shortcut = self.conv_s(self.norm_s(x, condition)) if self.learned else x
        dx = self.conv_0(F.leaky_relu(self.norm_0(x, condition), _SLOPE))
        dx = self.conv_1(F.leaky_relu(self.norm_1(dx, condition), _SLOPE))
        return shortcut + dx


class Generator(nn.Module):
    """Noise and segments to an image; names of modules are the official ones."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        n = config.ngf
        self.config = config
        height, width = config.start
        self.fc = nn.Linear(config.z_dim, 16 * n * height * width)
        widths = {
            "head_0": (16 * n, 16 * n),
            "G_middle_0": (16 * n, 16 * n),
            "G_middle_1": (16 * n, 16 * n),
            "up_0": (16 * n, 8 * n),
            "up_1": (8 * n, 4 * n),
            "up_2": (4 * n, 2 * n),
            "up_3": (2 * n, n),
        }
        if config.upsampling == "most":
            widths["up_4"] = (n, n // 2)
        self.order = list(widths)
        self.same_size = {"head_0"} | ({"G_middle_1"} if config.upsampling == "normal" else set())
        for name, (fin, fout) in widths.items():
            self.add_module(name, Block(fin, fout, config))
        self.conv_img = nn.Conv2d(widths[self.order[-1]][1], 3, 3, padding=1)
        self.to(memory_format=torch.channels_last)  # the look-up gives channels-last maps

    def forward(self, start: Tensor, condition: Condition) -> Tensor:
        """Global noise (B, z_dim) and the condition -> (B, 3, H, W) in [-1, 1]."""
        x = self.fc(start).view(start.shape[0], -1, *self.config.start)
        x = x.contiguous(memory_format=torch.channels_last)
        for name in self.order:
            x = x if name in self.same_size else interpolate_nearest(x)
            x = self.get_submodule(name)(x, condition)
        return torch.tanh(self.conv_img(F.leaky_relu(x, _SLOPE)))


class ScamNorm(InstanceAdaptiveNorm):
    """The same over instance normalisation, under the names of SCAM's repository."""

    def __init__(self, channels: int, config: Config) -> None:
        super().__init__(channels, config)
        self.param_free_norm = nn.InstanceNorm2d(channels)

    def map_keys(self, keys: KeyMap, ours: str, official: str) -> None:
        """Cover this layer."""
        for name in self.state_dict():
            keys.take(f"{ours}.{name}", f"{official}.segmap_encoder.{name}")


class ScamGenerator(FrameGenerator):
    """INADE as SCAM's repository has it: the activation twice, instance normalisation."""

    def __init__(self, frame: Frame, config: Config) -> None:
        super().__init__(frame, "INADE", config.z_dim, lambda c, _: ScamNorm(c, config), TWICE)

    def forward(self, start: Tensor, condition: Condition) -> Tensor:
        """As ``Generator``."""
        label = condition.segments.index
        return self.draw(label, start, lambda layer, x, _: layer(x, condition))
