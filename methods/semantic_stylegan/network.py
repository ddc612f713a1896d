"""SemanticStyleGAN's generator: mapping network, local generators, render network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sisbench.core.errors import UserError
from sisbench.methods.key_map import KeyMap
from sisbench.methods.layers.stylegan import (
    equalised_linear,
    fir_kernel,
    pixel_norm,
    scaled_leaky_relu,
)
from sisbench.methods.semantic_stylegan.local import LocalGenerators
from sisbench.methods.semantic_stylegan.options import SemanticStyleGANOptions
from sisbench.methods.semantic_stylegan.render import RenderNet

LR_MUL = 0.01
"""Factor of the mapping network's weights and biases."""


class MappingNet(nn.Module):
    """From a normal draw to a latent code.

    Args:
        dim: length of both.
        depth: layers.
    """

    def __init__(self, dim: int, depth: int) -> None:
        super().__init__()
        self.weights = nn.ParameterList(torch.randn(dim, dim) / LR_MUL for _ in range(depth))
        self.biases = nn.ParameterList(torch.zeros(dim) for _ in range(depth))

    def forward(self, z: Tensor) -> Tensor:
        """(B, D) -> (B, D)"""
        x = pixel_norm(z)
        for weight, bias in zip(self.weights, self.biases, strict=True):
            x = scaled_leaky_relu(equalised_linear(x, weight, bias, LR_MUL))
        return x


@dataclass(frozen=True)
class Rows:
    """Which row of W+ is what.

    Attributes:
        base_layers, depth_layers, local_layers: layers of a generator, as in the options.
        classes: generators.
    """

    base_layers: int
    depth_layers: int
    local_layers: int
    classes: int

    @property
    def count(self) -> int:
        """Rows of W+."""
        return self.base_layers + 2 * self.classes

    def shape(self, generator: int) -> int:
        """The shape row of a generator."""
        return self.base_layers + 2 * generator

    def texture(self, generator: int) -> int:
        """The texture row of a generator."""
        return self.base_layers + 2 * generator + 1

    def expanded(self) -> list[int]:
        """Row of W+ of each layer of each generator. The background, whose depth is constant, has
        no base rows: its shape row drives its first layers."""
        found = []
        for k in range(self.classes):
            for j in range(self.local_layers):
                if j >= self.depth_layers:
                    found.append(self.texture(k))
                elif j < self.base_layers and k > 0:
                    found.append(j)
                else:
                    found.append(self.shape(k))
        return found


class Generator(nn.Module):
    """The whole generator.

    Args:
        options: its sizes.
    """

    expansion: Tensor

    def __init__(self, options: SemanticStyleGANOptions) -> None:
        super().__init__()
        o = options
        self.rows = Rows(o.base_layers, o.depth_layers, o.local_layers, o.seg_dim)
        self.style = MappingNet(o.style_dim, o.n_mlp)
        self.local = LocalGenerators(
            o.seg_dim,
            o.local_layers,
            o.depth_layers,
            o.local_channel,
            o.coarse_channel,
            o.style_dim,
            o.coarse_size,
            o.size.bit_length() - 1,  # log2
            o.transparent_dims,
            o.detach_texture,
        )
        self.render = RenderNet(
            o.size,
            o.min_feat_size,
            o.coarse_size,
            o.coarse_channel,
            o.seg_dim,
            o.channel_multiplier,
            o.residual_refine,
        )
        index = torch.tensor(self.rows.expanded(), dtype=torch.int64)
        self.register_buffer("expansion", index, persistent=False)

    def expand(self, w: Tensor) -> Tensor:
        """W (B, D), W+ (B, rows, D) or expanded codes (B, K layers, D) -> (B, K layers, D)."""
        if w.ndim == 2:
            return w[:, None].expand(-1, len(self.expansion), -1)
        if w.shape[1] == len(self.expansion):
            return w
        if w.shape[1] != self.rows.count:
            raise UserError(f"codes have {w.shape[1]} rows, expected {self.rows.count}")
        return w[:, self.expansion]

    def forward(
        self, w: Tensor, noises: Sequence[Tensor] | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Codes as for ``expand`` -> image (B, 3, size, size), segmentation (B, K, size, size),
        neither bounded, and composited segmentation (B, K, coarse, coarse) in [-1, 1].

        Args:
            w: codes.
            noises: see ``RenderNet.forward``.
            mask: (B, K) of 0 and 1: generators that take part.
        """
        codes = self.expand(w).unflatten(1, (self.rows.classes, self.rows.local_layers))
        feat, p = self.local(codes, mask)
        image, seg = self.render(feat, p, noises)
        return image, seg, 2 * p - 1

    def map_keys(self, keys: KeyMap) -> None:
        """Official keys of ``g_ema``."""
        for i in range(len(self.style.weights)):
            keys.take(f"style.weights.{i}", f"style.{i + 1}.weight")
            keys.take(f"style.biases.{i}", f"style.{i + 1}.bias")
        self.local.map_keys(keys, "local")
        self.render.map_keys(keys, "render")


def check_kernels(state: Mapping[str, Tensor]) -> None:
    """Refuse a file whose resampling filters are not StyleGAN2's, which the code has built in.

    Raises:
        UserError: names the first that differs.
    """
    wanted = fir_kernel(4.0)
    for key, value in state.items():
        if not key.endswith(".kernel") or tuple(value.shape) != (4, 4):
            continue  # another shape is the key map's to report
        if not torch.allclose(value.detach().cpu().float(), wanted, atol=1e-6):
            raise UserError(
                f"semantic-stylegan: g_ema: {key} is not the filter (1, 3, 3, 1) of StyleGAN2",
                "networks with other resampling filters are not supported",
            )


class Networks(nn.Module):
    """``g_ema`` and the mean latent.

    Args:
        options: the generator's sizes.
    """

    mean_latent: Tensor

    def __init__(self, options: SemanticStyleGANOptions) -> None:
        super().__init__()
        self.g_ema = Generator(options)
        self.register_buffer("mean_latent", torch.zeros(options.style_dim), persistent=False)
