"""The networks of CA2-SIS: mask embedder, style encoders, mapping network and generator."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from sisbench.core.label_space import HOLE
from sisbench.core.resize import resize_labels_torch
from sisbench.methods.ca2sis.transformer import StyleTransformer
from sisbench.methods.layers.labels import one_hot, region_means
from sisbench.methods.layers.norms import GroupNorm
from sisbench.methods.layers.res_block import ResBlock, norm_groups


@dataclass(frozen=True)
class Widths:
    """Sizes that are constants in the official code.

    Attributes:
        channels: before the first stage and after each; every stage but the first doubles the size.
        heads, head_dim: of the attentions; half of each in the last stage.
        mask_side: side that label maps are reduced to before they are embedded.
        mapping: inner width of the mapping network.
    """

    channels: tuple[int, ...] = (512, 256, 128, 64, 32, 32)
    heads: int = 8
    head_dim: int = 64
    mask_side: int = 128
    mapping: int = 512


_OFFICIAL = Widths()


class MaskEmbedder(nn.Module):
    """One linear map, shared by all classes, from a class's region (officially at 128x128) to an
    embedding (CA2-SIS section III-A)."""

    def __init__(self, side: int, width: int) -> None:
        super().__init__()
        self.side = side
        self.encs = nn.ModuleList([nn.Linear(side * side, width)])

    def forward(self, label: Tensor, num_classes: int) -> Tensor:
        """(B, H, W) int64 -> (B, num_classes, width)"""
        planes = one_hot(resize_labels_torch(label, (self.side, self.side)), num_classes)
        return self.encs[0](planes.flatten(2))


class PlainMask(nn.Module):
    """The ablation without embedder: the one-hot map at the size of the first feature map."""

    def __init__(self, base: tuple[int, int]) -> None:
        super().__init__()
        self.base = base

    def forward(self, label: Tensor, num_classes: int) -> Tensor:
        """(B, H, W) int64 -> (B, num_classes, h * w)"""
        return one_hot(resize_labels_torch(label, self.base), num_classes).flatten(2)


class RegionStyleEncoder(nn.Module):
    """The ablation with SEAN's style encoder: one resolution, mean over the region, zeros for
    absent classes (SEAN section 3.1; here 256 wide)."""

    def __init__(self, num_classes: int, code_dim: int) -> None:
        super().__init__()
        self.num_classes = num_classes

        def act(width: int) -> list[nn.Module]:
            return [nn.InstanceNorm2d(width), nn.LeakyReLU(0.2, True)]

        self.model = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(3, 32, 3),
            *act(32),
            nn.Conv2d(32, 64, 3, 2, 1),
            *act(64),
            nn.Conv2d(64, 128, 3, 2, 1),
            *act(128),
            nn.ConvTranspose2d(128, 256, 3, 2, 1, 1),
            *act(256),
            nn.ReflectionPad2d(1),
            nn.Conv2d(256, code_dim, 3),
            nn.Tanh(),
        )

    def forward(self, image: Tensor, label: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1], (B, H, W) int64 -> (B, num_classes, code_dim)"""
        features = self.model(image)
        small = resize_labels_torch(label, (features.shape[-2], features.shape[-1]))
        return region_means(features, small, self.num_classes)


class ClassLinear(nn.Module):
    """One linear layer a class, all in one product."""

    def __init__(self, num_classes: int, inp: int, out: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inp)
        self.weight = nn.Parameter(torch.empty(num_classes, out, inp).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(num_classes, out).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """(C, B, inp) -> (C, B, out)"""
        return torch.baddbmm(self.bias[:, None], x, self.weight.transpose(1, 2))


class MappingNetwork(nn.Module):
    """Style codes from noise: a shared trunk, then one branch a class (CA2-SIS section III-E)."""

    def __init__(self, num_classes: int, noise_dim: int, width: int, code_dim: int) -> None:
        super().__init__()
        trunk: list[nn.Module] = []
        for i in range(4):
            trunk += [nn.Linear(width if i else noise_dim, width), nn.ReLU(True)]
        self.shared = nn.Sequential(*trunk)
        self.num_classes = num_classes
        widths = (width, width, width, code_dim)
        self.unshared = nn.ModuleList(ClassLinear(num_classes, width, out) for out in widths)

    def forward(self, z: Tensor) -> Tensor:
        """(B, noise_dim) -> (B, num_classes, code_dim)"""
        x = self.shared(z).expand(self.num_classes, -1, -1)
        for layer in self.unshared[:-1]:
            x = layer(x).relu()
        return self.unshared[-1](x).transpose(0, 1)


class StyleMapNorm(nn.Module):
    """What stands for a cross-attention in the ablation without it (Table 3, "w/o CA"; ours, since
    the authors' was never released): SPADE normalisation whose scale and shift come from the style
    map, in which every pixel has the code of its class. A pixel of no class is only normalised.
    """

    def __init__(self, channels: int, code_dim: int) -> None:
        super().__init__()
        self.norm = GroupNorm(norm_groups(channels), channels, affine=False)
        self.modulation = nn.Linear(code_dim, 2 * channels)

    def forward(self, x: Tensor, codes: Tensor, label: Tensor) -> Tensor:
        """(B, c, h, w), (B, C, D), (B, H, W) int64 class ids -> (B, c, h, w)"""
        table = self.modulation(codes)  # (B, C, 2c): a look-up, as the map is constant a class
        table = torch.cat([table, table.new_zeros(len(table), 1, table.shape[2])], 1)
        small = resize_labels_torch(label, (x.shape[-2], x.shape[-1]))
        rows = torch.where(small == HOLE, codes.shape[1], small).flatten(1)  # (B, h*w)
        pixels = table.gather(1, rows[..., None].expand(-1, -1, table.shape[2]))
        gamma, beta = pixels.transpose(1, 2).unflatten(2, x.shape[-2:]).chunk(2, 1)
        return self.norm(x) * (1 + gamma) + beta


class CA2SISNet(nn.Module):
    """Everything that the official ``netG`` holds.

    Args:
        num_classes: channels of the one-hot map.
        exclude_bg: whether channel 0 has no mask embedding.
        base: (h, w) of the first feature map, officially a sixteenth of the image.
        style_encoder: the encoder, (image, label) -> codes.
        code_dim: width of a code.
        mapping_dim: width of the noise, 0 for no mapping network.
        embedder: False gives the ablation without mask embedder.
        tanh: whether the image passes a tanh.
        attention: False gives the ablation without cross-attention.
        widths: see there.
    """

    def __init__(
        self,
        num_classes: int,
        exclude_bg: bool,
        base: tuple[int, int],
        style_encoder: nn.Module,
        code_dim: int,
        mapping_dim: int,
        embedder: bool,
        tanh: bool,
        attention: bool = True,
        widths: Widths = _OFFICIAL,
    ) -> None:
        super().__init__()
        self.attention = attention
        self.num_classes = num_classes
        self.embedded = num_classes - int(exclude_bg)
        self.base = base
        self.tanh = tanh
        self.encs = (
            MaskEmbedder(widths.mask_side, base[0] * base[1]) if embedder else PlainMask(base)
        )
        self.style_encoder = style_encoder
        if mapping_dim:
            self.noise_encoder = MappingNetwork(num_classes, mapping_dim, widths.mapping, code_dim)
        self.reshape_conv = nn.Conv2d(self.embedded, widths.channels[0], 1)
        self.stages = len(widths.channels) - 1
        for i, (inp, out) in enumerate(pairwise(widths.channels)):
            part = 2 if i == self.stages - 1 else 1
            heads, head_dim = widths.heads // part, widths.head_dim // part
            self.add_module(f"res{i + 2}", ResBlock(inp, out, up=i > 0))
            cross: nn.Module = StyleMapNorm(out, code_dim)
            if attention:
                cross = StyleTransformer(
                    out, code_dim, heads, head_dim, self_attention=i < self.stages - 2
                )
            self.add_module(f"cross{i + 2}", cross)
        self.out_conv = nn.Conv2d(widths.channels[-1], 3, 1)

    def embed(self, label: Tensor) -> Tensor:
        """Mask embeddings of the embedded channels: (B, H, W) int64 -> (B, ne, E)."""
        first = self.num_classes - self.embedded
        return self.encs((label - first).clamp_min(HOLE), self.embedded)

    def decode(
        self,
        embedding: Tensor,
        codes: Tensor,
        label: Tensor,
        maps: list[Tensor] | None = None,
        per_head: bool = False,
    ) -> Tensor:
        """Draw: (B, ne, E), (B, C, D) -> (B, 3, H, W).

        ``label`` (B, H, W) matters to the ablation without cross-attention alone; ``maps`` receives
        the attention logits of the stages (see ``StyleTransformer``).
        """
        x = self.reshape_conv(embedding.unflatten(2, self.base))
        for i in range(2, 2 + self.stages):
            x = getattr(self, f"res{i}")(x)
            cross = getattr(self, f"cross{i}")
            x = cross(x, codes, maps, per_head) if self.attention else cross(x, codes, label)
        x = self.out_conv(x)
        return x.tanh() if self.tanh else x
