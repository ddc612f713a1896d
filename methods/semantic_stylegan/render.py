"""The render network of SemanticStyleGAN: from composited features to image and segmentation.

No style enters it. Its weights are constant at inference, so modulation and demodulation are folded
into them once (``fold``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sisbench.methods.key_map import KeyMap
from sisbench.methods.layers.stylegan import fir_kernel, scaled_leaky_relu, upfirdn2d, upsample2


def channels_at(size: int, multiplier: int) -> int:
    """Channels of the render network at a size."""
    return 512 if size <= 32 else 16 * multiplier * (1024 // size)


class RenderLayer(nn.Module):
    """A 3x3 layer with constant modulation, noise and activation.

    Args:
        inputs, outputs: channels.
        up: whether it doubles the size.
    """

    folded: Tensor | None
    kernel: Tensor

    def __init__(self, inputs: int, outputs: int, up: bool) -> None:
        super().__init__()
        self.up = up
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.modulation = nn.Parameter(torch.ones(1, inputs, 1, 1))
        self.strength = nn.Parameter(torch.zeros(1))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("folded", None, persistent=False)
        self.register_buffer("kernel", fir_kernel(4.0), persistent=False)

    def fold(self) -> Tensor:
        """(O, I, 3, 3): the weight as it multiplies; (I, O, 3, 3) where the layer doubles."""
        w = self.weight * self.modulation / math.sqrt(9 * self.weight.shape[1])
        w = w * torch.rsqrt(w.square().sum((1, 2, 3), keepdim=True) + 1e-8)
        return w.transpose(0, 1) if self.up else w

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """x (B, I, H, W), noise (B or 1, 1, h, w) -> (B, O, h, w); h = 2H where it doubles."""
        w = self.fold() if self.folded is None else self.folded
        if self.up:
            x = upfirdn2d(F.conv_transpose2d(x, w, stride=2), self.kernel, pad=(1, 1))
        else:
            x = F.conv2d(x, w, padding=1)
        return scaled_leaky_relu(x + self.strength * noise + self.bias[:, None, None])


class OutputLayer(nn.Module):
    """A 1x1 layer that adds to its predecessor's output, doubled in size.

    Args:
        inputs, outputs: channels.
    """

    folded: Tensor | None
    kernel: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 1, 1))
        self.modulation = nn.Parameter(torch.ones(1, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, outputs, 1, 1))
        self.register_buffer("folded", None, persistent=False)
        self.register_buffer("kernel", fir_kernel(4.0), persistent=False)

    def fold(self) -> Tensor:
        """(O, I, 1, 1): the weight as it multiplies."""
        return self.weight * self.modulation / math.sqrt(self.weight.shape[1])

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """x (B, I, H, W), skip (B, O, H/2, W/2) -> (B, O, H, W)"""
        w = self.fold() if self.folded is None else self.folded
        x = F.conv2d(x, w) + self.bias
        return x if skip is None else x + upsample2(skip, self.kernel)


class RenderNet(nn.Module):
    """From ``start`` to ``size`` by doublings of two layers each.

    Args:
        size, start, coarse: size of the picture; where it begins; of the feature map.
        features, classes: channels of the feature map and of the segmentation.
        multiplier: of the channels.
        refine: whether the composited segmentation is added at its size.
    """

    def __init__(
        self,
        size: int,
        start: int,
        coarse: int,
        features: int,
        classes: int,
        multiplier: int,
        refine: bool,
    ) -> None:
        super().__init__()
        self.start, self.coarse, self.refine = start, coarse, refine
        self.sizes = [2 * start << i for i in range(int(math.log2(size // start)))]
        self.convs, self.to_rgbs, self.to_segs = (nn.ModuleList() for _ in range(3))
        width = features
        for s in self.sizes:
            if s // 2 == coarse:
                width += features
            out = channels_at(s, multiplier)
            self.convs.extend([RenderLayer(width, out, True), RenderLayer(out, out, False)])
            self.to_rgbs.append(OutputLayer(out, 3))
            self.to_segs.append(OutputLayer(out, classes))
            width = out
        self.noises = nn.Module()
        for i, s in enumerate(self.noise_sizes):
            self.noises.register_buffer(f"noise_{i}", torch.randn(1, 1, s, s))

    @property
    def noise_sizes(self) -> list[int]:
        """Width and height of each noise map."""
        return [s for s in self.sizes for _ in range(2)]

    def buffers_of_noise(self) -> list[Tensor]:
        """The checkpoint's own noise maps, each (1, 1, h, w)."""
        return [getattr(self.noises, f"noise_{i}") for i in range(len(self.noise_sizes))]

    def fold(self) -> None:
        """Keep the weights as they multiply; call it again when parameters change."""
        for layer in self.layers():
            layer.folded = layer.fold().detach().contiguous()

    def unfold(self) -> None:
        """Let the weights follow the parameters again, as tuning needs."""
        for layer in self.layers():
            layer.folded = None

    def layers(self) -> list[RenderLayer | OutputLayer]:
        """Every layer with a weight."""
        return [*self.convs, *self.to_rgbs, *self.to_segs]  # type: ignore[list-item]

    def forward(
        self, feat: Tensor, p: Tensor, noises: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Image (B, 3, size, size) and segmentation (B, K, size, size), neither bounded.

        Args:
            feat: (B, features, coarse, coarse).
            p: (B, K, coarse, coarse) class probabilities.
            noises: a map (B or 1, 1, h, w) for each layer; the checkpoint's own by default.
        """
        noises = self.buffers_of_noise() if noises is None else noises
        x = F.adaptive_avg_pool2d(feat, self.start)
        image = seg = None
        for i, size in enumerate(self.sizes):
            if size // 2 == self.coarse:
                x = torch.cat([x, feat], 1)
            x = self.convs[2 * i](x, noises[2 * i])
            x = self.convs[2 * i + 1](x, noises[2 * i + 1])
            image = self.to_rgbs[i](x, image)
            seg = self.to_segs[i](x, seg)
            if self.refine and size == self.coarse:
                seg = seg + (2 * p - 1)
        assert image is not None  # size is above start
        assert seg is not None
        return image, seg

    def map_keys(self, keys: KeyMap, ours: str) -> None:
        """Official keys; the kernels of resampling are constants there."""
        for i, layer in enumerate(self.convs):
            for name in ("weight", "modulation"):
                keys.take(f"{ours}.convs.{i}.{name}", f"render_net.convs.{i}.{name}")
            keys.take(f"{ours}.convs.{i}.strength", f"render_net.convs.{i}.noise.weight")
            keys.take(f"{ours}.convs.{i}.bias", f"render_net.convs.{i}.activate.bias")
            if layer.up:
                keys.unused(f"render_net.convs.{i}.blur.kernel", (4, 4))
        for part in ("to_rgbs", "to_segs"):
            for i in range(len(self.sizes)):
                stem = f"{part}.{i}"
                keys.take(f"{ours}.{stem}.weight", f"render_net.{stem}.conv.weight")
                keys.take(f"{ours}.{stem}.modulation", f"render_net.{stem}.conv.modulation")
                keys.take(f"{ours}.{stem}.bias", f"render_net.{stem}.bias")
                keys.unused(f"render_net.{stem}.upsample.kernel", (4, 4))
        for i in range(len(self.noise_sizes)):
            keys.take(f"{ours}.noises.noise_{i}", f"render_net.noises.noise_{i}")
