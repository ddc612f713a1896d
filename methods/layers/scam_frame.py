"""The generator around SCAM's re-implementations of other methods: blocks that are followed by
their enlargement, sizes and key names of its repository (SPADE, CLADE, SEAN-CLADE, INADE)."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sisbench.core.errors import UserError
from sisbench.core.label_space import LabelSpace
from sisbench.core.resize import resize_labels_torch
from sisbench.methods.layers.label_maps import Level
from sisbench.methods.layers.spade import SLOPE, Block, LabelConv, leaky

if TYPE_CHECKING:
    from sisbench.methods.key_map import KeyMap

TWICE = SLOPE * SLOPE
"""Slope of a leaky ReLU that is applied twice, as that repository does it for SPADE, CLADE and
INADE."""
FRAME_FILES = {"generator": ("last.ckpt", "*.ckpt"), "encoder": ("last.ckpt", "*.ckpt")}
FRAME_PREFIXES = {"generator": "generator.", "encoder": "encoder."}
CONVS = {"conv_0": "conv_0.1", "conv_1": "conv_1.1", "conv_s": "conv_res"}
NORMS = {"norm_0": "mod_0", "norm_1": "mod_1", "norm_s": "mod_res"}
FIXED = {"kernel_size": 3}
"""What every network of that repository has."""
_SIZES = {"idesigner": (256, 170)}
_FEWEST = 4


@dataclass(frozen=True)
class FrameOptions:
    """Construction options by the names of SCAM's repository; None follows the label space.

    Attributes:
        num_labels: classes.
        height, width: size of the picture.
        num_filters_last_layer: channels of the last block.
        num_up_layers: blocks, 4 or more.
    """

    num_labels: int | None = None
    height: int | None = None
    width: int | None = None
    num_filters_last_layer: int = 64
    num_up_layers: int = 7


def recognise_frame(flat: dict[str, Any]) -> dict[str, Any]:
    """An option file of SCAM's repository says by its names which variant it is for."""
    frame = {f.name for f in dataclasses.fields(FrameOptions)}
    if "variant" not in flat and not frame.isdisjoint(flat):
        return {**flat, "variant": "scam"}
    return flat


def refuse_foreign(options: Any, shared: frozenset[str]) -> None:
    """Raises ValueError for an unknown ``variant``, and for an option that the other variant alone
    has: it is not ignored. ``shared`` are those of both."""
    variant = options.variant
    if variant not in ("official", "scam"):
        raise ValueError(f"variant must be official or scam, got {variant!r}")
    frame = {f.name for f in dataclasses.fields(FrameOptions)}
    for f in dataclasses.fields(options):
        foreign = f.name in frame if variant == "official" else f.name not in frame
        if f.name in shared or f.name == "variant":
            continue
        if foreign and getattr(options, f.name) != f.default:
            raise ValueError(f"'{f.name}' is no option of the variant {variant!r}")


@dataclass(frozen=True)
class Frame:
    """What such a generator is built from; every value is known.

    Attributes:
        size: (H, W) of the picture.
        start: (h, w) of the first block.
        widths: channels before the first and after every block.
    """

    classes: int
    size: tuple[int, int]
    start: tuple[int, int]
    widths: tuple[int, ...]

    @staticmethod
    def of(options: FrameOptions, space: LabelSpace) -> Frame:
        """The frame for ``space``.

        Raises:
            UserError: too few blocks, or a size too small for them.
        """
        official = _SIZES.get(space.name, (256, 256))
        size = options.height or official[0], options.width or official[1]
        blocks, n = options.num_up_layers, options.num_filters_last_layer
        classes = options.num_labels or len(space)
        if blocks < _FEWEST or min(classes, n, *size) < 1:
            raise UserError(
                f"num_up_layers must be {_FEWEST} or more and sizes positive, got {options}"
            )
        start = start_size(size, blocks)
        if min(start) < 1:
            raise UserError(f"{size[0]}x{size[1]} is too small for {blocks} blocks")
        widths = [16 * n] * (blocks - 3) + [8 * n, 4 * n, 2 * n, n]
        return Frame(classes, size, start, tuple(widths))


def start_size(size: tuple[int, int], blocks: int) -> tuple[int, int]:
    """(h, w) of the first block; for wide pictures the repository divides by the aspect where it
    should multiply, and the last enlargement stretches the picture again."""
    height, width = size
    if width >= height:
        h = height // 2 ** (blocks - 2)
        return h, round(h / (width / height))
    w = width // 2 ** (blocks - 2)
    return round(w / (width / height)), w


class FrameGenerator(nn.Module):
    """Label map and style to photograph.

    Args:
        frame: sizes.
        name: of a block in the files, as ``CLADE``.
        z_dim: length of the latent vector, or None: the label map itself is the start.
        make: builds the normalisation of so many channels in the block of an index.
        slope: of the leaky ReLU before each 3x3 convolution of a block.
    """

    def __init__(
        self,
        frame: Frame,
        name: str,
        z_dim: int | None,
        make: Callable[[int, int], nn.Module],
        slope: float,
    ) -> None:
        super().__init__()
        self.frame, self.block_name = frame, name
        self.first: nn.Module
        if z_dim is None:
            self.first = LabelConv(frame.classes, frame.widths[0], 3)
        else:
            self.first = nn.Linear(z_dim, frame.widths[0] * frame.start[0] * frame.start[1])
        self.blocks = nn.ModuleList(
            Block(fin, fout, lambda c, i=i: make(c, i), slope=slope)  # type: ignore[misc]
            for i, (fin, fout) in enumerate(pairwise(frame.widths))
        )
        self.last_conv = nn.Conv2d(frame.widths[-1], 3, 3, padding=1)

    def draw(
        self, label: Tensor, z: Tensor | None, norm: Callable[[nn.Module, Tensor, str], Tensor]
    ) -> Tensor:
        """The picture; ``norm(layer, x, name)`` applies a normalisation, which the files call
        ``name`` (``CLADE_block_3.mod_res``)."""
        x = self._begin(label, z).contiguous(memory_format=torch.channels_last)
        for i, block in enumerate(self.blocks):
            at = f"{self.block_name}_block_{i}"
            x = block(
                x, lambda layer, y, which, at=at: norm(layer, y, f"{at}.{NORMS[f'norm_{which}']}")
            )
            if i == len(self.blocks) - 1:
                if x.shape[2:] != self.frame.size:
                    x = F.interpolate(x, self.frame.size, mode="nearest")
            elif i != 1:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return torch.tanh(self.last_conv(leaky(x)))

    def _begin(self, label: Tensor, z: Tensor | None) -> Tensor:
        width, start = self.frame.widths[0], self.frame.start
        if z is not None:
            return self.first(z).view(-1, width, *start)
        level = Level(resize_labels_torch(label, start), self.frame.classes, 3, None, dense=True)
        return self.first(level).view(-1, *start, width).permute(0, 3, 1, 2)

    def map_keys(self, keys: KeyMap, spectral: bool) -> None:
        """Cover the whole generator."""
        if isinstance(self.first, LabelConv):
            self.first.map_keys(keys, "first", "first_conv")
        else:
            keys.take("first.weight", "fc.weight")
            keys.take("first.bias", "fc.bias")
        for i, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            name = self.block_name
            kind = {"SEANCLADE": "sean_clade"}.get(name, name.lower())
            official = f"backbone.{name}_block_{i}.{kind}_block"
            block.map_keys(keys, f"blocks.{i}", spectral, official, CONVS)
            for ours, theirs in NORMS.items():
                layer = getattr(block, ours)
                if layer is not None:
                    layer.map_keys(keys, f"blocks.{i}.{ours}", f"{official}.{theirs}")
        keys.take("last_conv.weight", "last_conv.1.weight")
        keys.take("last_conv.bias", "last_conv.1.bias")


class LabelFrameGenerator(FrameGenerator):
    """One whose normalisations take nothing but the label map."""

    @abstractmethod
    def prepare(self, label: Tensor) -> Any:
        """What the normalisations take beside the features, from the full-size label map."""

    def forward(self, label: Tensor, edges: None, z: Tensor | None) -> Tensor:
        """label (B, H, W) int64, z (B, z_dim) or None -> (B, 3, *size) in [-1, 1]."""
        maps = self.prepare(label)
        return self.draw(label, z, lambda layer, x, _: layer(x, maps))
