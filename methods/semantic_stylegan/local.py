"""The local generators of SemanticStyleGAN, all classes at once, and their compositing.

A generator is a small network over coordinates; those of all classes have one shape, so that a
layer of all of them is one batched product.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sisbench.methods.key_map import KeyMap
from sisbench.methods.layers.stylegan import scaled_leaky_relu


def unit_grid(size: int) -> Tensor:
    """(1, 2, size, size) float32: x, y from -1 to 1 inclusive."""
    line = torch.linspace(-1, 1, size)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y])[None]


def fourier_features(grid: Tensor, octaves: int) -> Tensor:
    """(B, 2, H, W) -> (B, 2 (2 octaves + 1), H, W): the grid, then sin and cos of 2^f times it."""
    parts = [grid]
    for f in range(octaves):
        parts += [torch.sin(2**f * grid), torch.cos(2**f * grid)]
    return torch.cat(parts, 1)


def modulate(weight: Tensor, scale: Tensor) -> Tensor:
    """Weights (K, O, I) scaled per input and sample, then to unit length over inputs.

    Args:
        scale: (B, K, I).

    Returns:
        (B, K, O, I)
    """
    scaled = weight * scale[:, :, None] / math.sqrt(weight.shape[2])
    return scaled * torch.rsqrt(scaled.square().sum(3, keepdim=True) + 1e-8)


class LocalLayer(nn.Module):
    """One modulated 1x1 layer of each of K generators.

    Args:
        classes: K.
        width: channels in and out.
        style_dim: length of a code.
    """

    def __init__(self, classes: int, width: int, style_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, 1, width, width, 1, 1))
        self.style_weight = nn.Parameter(torch.randn(classes, width, style_dim))
        self.style_bias = nn.Parameter(torch.ones(classes, width))
        self.bias = nn.Parameter(torch.zeros(classes, width))

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """x (B or 1, K or 1, I, P) and codes (B, K, D) -> (B, K, O, P)."""
        scale = torch.einsum("bkd,kid->bki", code, self.style_weight) / math.sqrt(code.shape[2])
        weight = modulate(self.weight[:, 0, :, :, 0, 0], scale + self.style_bias)
        return scaled_leaky_relu(weight @ x + self.bias[:, :, None])

    def map_keys(self, keys: KeyMap, ours: str, layer: int) -> None:
        """Official keys of layer ``layer`` of every generator."""
        stem = f"linears.{layer}"
        official = {
            "weight": f"{stem}.conv.weight",
            "style_weight": f"{stem}.conv.modulation.weight",
            "style_bias": f"{stem}.conv.modulation.bias",
            "bias": f"{stem}.activate.bias",
        }
        for name, key in official.items():
            keys.stack(f"{ours}.{name}", [f"local_nets.{k}.{key}" for k in range(len(self.weight))])


class LocalOutput(nn.Module):
    """An output layer of each of K generators: a 1x1 layer that follows no style.

    Args:
        classes: K.
        width: channels in.
        out: channels out.
    """

    def __init__(self, classes: int, width: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, out, width, 1, 1))
        self.modulation = nn.Parameter(torch.ones(classes, 1, width, 1, 1))
        self.bias = nn.Parameter(torch.zeros(classes, 1, out, 1, 1))

    def matrix(self) -> Tensor:
        """(K, O, I): what multiplies the input."""
        found: Tensor = (self.weight * self.modulation)[..., 0, 0] / math.sqrt(self.weight.shape[2])
        return found

    def offset(self) -> Tensor:
        """(K, O)"""
        return self.bias[:, 0, :, 0, 0]

    def forward(self, x: Tensor) -> Tensor:
        """(B, K, I, P) -> (B, K, O, P)"""
        return self.matrix() @ x + self.offset()[:, :, None]

    def map_keys(self, keys: KeyMap, ours: str, part: str, first: int) -> None:
        """Official keys; the generators are numbered from ``first``."""
        stems = [f"local_nets.{first + k}.{part}" for k in range(len(self.weight))]
        keys.stack(f"{ours}.weight", [f"{s}.conv.weight" for s in stems])
        keys.stack(f"{ours}.modulation", [f"{s}.conv.modulation" for s in stems])
        keys.stack(f"{ours}.bias", [f"{s}.bias" for s in stems])
        for stem in stems:  # never used: the output layers of generators do not resample
            keys.unused(f"{stem}.upsample.kernel", (4, 4))


def composite_weights(
    depths: Tensor, transparent: Sequence[int] = (), mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """How much of each generator's features enters the picture, and the class probabilities.

    Args:
        depths: (B, K, ...) float.
        transparent: generators laid over a complete picture of the others: their weights come on
            top, so that the sum exceeds 1.
        mask: (B, K) of 0 and 1, generators that take part; all by default.

    Returns:
        weights and probabilities, each (B, K, ...).
    """
    p = depths.softmax(1)
    if mask is not None:
        p = p * mask.reshape(*mask.shape, *[1] * (p.ndim - 2))
        p = p / (p.sum(1, keepdim=True) + 1e-8)
    if not transparent:
        return p, p
    solid = torch.ones(p.shape[1], device=p.device, dtype=torch.bool)
    solid[list(transparent)] = False
    solid = solid.reshape(-1, *[1] * (p.ndim - 2))
    total = (p * solid).sum(1, keepdim=True) + 1e-8
    return torch.where(solid, p / total, p), p


class LocalGenerators(nn.Module):
    """The generators of all classes, from codes to the composited feature map.

    Args:
        classes: K.
        layers, depth_layers: layers of a generator; those before its depth.
        width, out: channels of a generator; of its features.
        style_dim: length of a code.
        size: of the grid.
        octaves: of the position embedding.
        transparent: generators laid over the others.
        detach_texture: whether gradients of textures stop before the shapes' layers.
    """

    grid: Tensor

    def __init__(
        self,
        classes: int,
        layers: int,
        depth_layers: int,
        width: int,
        out: int,
        style_dim: int,
        size: int,
        octaves: int,
        transparent: tuple[int, ...],
        detach_texture: bool,
    ) -> None:
        super().__init__()
        self.size, self.depth_layers, self.transparent = size, depth_layers, transparent
        self.detach_texture = detach_texture
        features = fourier_features(unit_grid(size), octaves).flatten(2)
        self.register_buffer("grid", features, persistent=False)
        self.position = nn.Parameter(torch.randn(width, features.shape[1], 1, 1))
        self.layers = nn.ModuleList(LocalLayer(classes, width, style_dim) for _ in range(layers))
        self.to_depth = LocalOutput(classes - 1, width, 1)
        self.to_feat = LocalOutput(classes, width, out)

    def embed(self) -> Tensor:
        """(1, width, P): the position embedding, the same for every class and sample."""
        weight = self.position[..., 0, 0] / math.sqrt(self.position.shape[1])
        return weight @ self.grid

    def hidden(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Codes (B, K, layers, D) -> what the feature layer takes (B, K, width, P), and the depths
        (B, K, P); the background's is 0."""
        x = self.embed()[:, None]
        depths = None
        for j, layer in enumerate(self.layers):
            x = layer(x, codes[:, :, j])
            if j == self.depth_layers - 1:
                depths = self.to_depth(x[:, 1:])[:, :, 0]
                depths = torch.cat([torch.zeros_like(depths[:, :1]), depths], 1)
                x = x.detach() if self.detach_texture else x
        assert depths is not None  # depth_layers is 1 or more
        return x, depths

    def forward(self, codes: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Codes (B, K, layers, D) -> feature map (B, out, s, s), probabilities (B, K, s, s).

        The feature layers are linear, so that the weights of the compositing go before them: one
        product makes the sum over classes, and no features of single classes are held.
        """
        x, depths = self.hidden(codes)
        weights, p = composite_weights(depths, self.transparent, mask)
        merged = (x * weights[:, :, None]).flatten(1, 2)  # (B, K, I, P) -> (B, K I, P)
        matrix = self.to_feat.matrix().transpose(0, 1).flatten(1)  # (K, O, I) -> (O, K I)
        feat = matrix @ merged + self.to_feat.offset().T @ weights
        shape = (self.size, self.size)
        return feat.unflatten(2, shape), p.unflatten(2, shape)

    def map_keys(self, keys: KeyMap, ours: str) -> None:
        """Official keys of the generators and the position embedding."""
        keys.take(f"{ours}.position", "pos_embed.weights")
        for j, layer in enumerate(self.layers):
            assert isinstance(layer, LocalLayer)
            layer.map_keys(keys, f"{ours}.layers.{j}", j)
        self.to_depth.map_keys(keys, f"{ours}.to_depth", "to_depth", 1)
        self.to_feat.map_keys(keys, f"{ours}.to_feat", "to_feat", 0)
