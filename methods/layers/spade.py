"""The spatially adaptive layers, blocks and sizes that the networks of the SPADE family share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sisbench.core.errors import UserError
from sisbench.methods.layers.conv import Conv2d
from sisbench.methods.layers.label_maps import Level

if TYPE_CHECKING:
    from sisbench.methods.key_map import KeyMap

SLOPE = 0.2
UPSAMPLINGS = {"normal": 5, "more": 6, "most": 7}


def leaky(x: Tensor) -> Tensor:
    """Leaky ReLU of the SPADE family."""
    return F.leaky_relu(x, SLOPE)


@dataclass(frozen=True)
class NormKind:
    """A parsed norm string, as ``spectralspadesyncbatch3x3``."""

    spectral: bool
    norm: str
    kernel: int

    @staticmethod
    def parse(text: str) -> NormKind:
        """Raises UserError unless ``text`` is ``[spectral]spade<norm><k>x<k>`` with odd k."""
        found = re.fullmatch(r"(spectral)?spade(syncbatch|batch|instance)(\d)x(\d)", text)
        if found is None or found[3] != found[4] or int(found[3]) % 2 == 0:
            raise UserError(
                f"norm_G: '{text}' is unknown",
                "write [spectral]spade<syncbatch|batch|instance><k>x<k> with an odd k",
            )
        return NormKind(found[1] is not None, found[2], int(found[3]))

    def build(self, channels: int) -> nn.Module:
        """The parameter-free normalisation."""
        if self.norm == "instance":
            return nn.InstanceNorm2d(channels)
        return nn.BatchNorm2d(channels, affine=False)


class LabelConv(nn.Module):
    """A zero-padded convolution of a one-hot label map, by look-up.

    Weight (channels, kernel^2, out): the rows of a table, one for a class and a tap.

    Args:
        channels: input channels: classes, and one more if there are instance edges.
        out: output channels.
        kernel: odd size.
    """

    def __init__(self, channels: int, out: int, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.weight = nn.Parameter(torch.empty(channels, kernel * kernel, out))
        self.bias = nn.Parameter(torch.zeros(out))
        nn.init.normal_(self.weight, std=(channels * kernel * kernel) ** -0.5)

    def forward(self, level: Level) -> Tensor:
        """(n, out), a row for each of ``level.taps``."""
        if torch.is_grad_enabled() and self.weight.requires_grad and level.windows is None:
            return self._convolved(level)  # the gradient of a look-up is the slower one
        rows = F.embedding_bag(level.taps, with_empty(self.weight[: level.classes]), mode="sum")
        if level.edge_taps is not None:
            rows = rows + level.edge_taps @ self.weight[-1]
        return rows + self.bias

    def _convolved(self, level: Level) -> Tensor:
        shape = (self.weight.shape[2], -1, self.kernel, self.kernel)
        weight = self.weight.permute(2, 0, 1).reshape(shape)
        planes = F.conv2d(level.planes(), weight, self.bias, padding=self.kernel // 2)
        return planes.permute(0, 2, 3, 1).flatten(0, 2)

    def map_keys(self, keys: KeyMap, ours: str, official: str) -> None:
        """Cover ``ours``.weight and .bias by the official convolution's."""
        channels, _, out = self.weight.shape
        keys.join(
            f"{ours}.weight",
            {f"{official}.weight": (out, channels, self.kernel, self.kernel)},
            lambda found: found[f"{official}.weight"].flatten(2).permute(1, 2, 0),
        )
        keys.take(f"{ours}.bias", f"{official}.bias")


def with_empty(weight: Tensor) -> Tensor:
    """A look-up table with a zero entry for "no class": (..., K, taps, D) -> (rows, D)."""
    empty = weight.new_zeros(*weight.shape[:-3], 1, *weight.shape[-2:])
    return torch.cat([weight, empty], -3).flatten(0, -2)


class MaskBranch(nn.Module):
    """gamma and beta of a SPADE layer (Park et al. 2019, section 3) from the label map.

    Args:
        channels: C of the features that are modulated.
        label_channels: channels of the label map.
        hidden: width in between.
        kernel: odd size of both convolutions.
    """

    def __init__(self, channels: int, label_channels: int, hidden: int, kernel: int) -> None:
        super().__init__()
        self.channels = channels
        self.shared = LabelConv(label_channels, hidden, kernel)
        self.modulation = Conv2d(hidden, 2 * channels, kernel)

    def forward(self, level: Level) -> Tensor:
        """Values by window (U, 2C), as ``Level.spread`` takes them; gamma first."""
        return self.modulated(level, F.relu(self.shared(level)))

    def modulated(self, level: Level, hidden: Tensor) -> Tensor:
        """The second convolution, over the outputs of the first for ``level.taps``, (n, D)."""
        if level.around is None:
            planes = hidden.view(level.batch, level.height, level.width, -1).permute(0, 3, 1, 2)
            return self.modulation(planes).permute(0, 2, 3, 1).flatten(0, 2)
        padded = F.pad(hidden, (0, 0, 0, 1))
        patches = padded.index_select(0, level.around.flatten())
        matrix = self.modulation.weight.permute(0, 2, 3, 1).flatten(1)  # (2C, k^2 * D)
        return F.linear(patches.view(-1, matrix.shape[1]), matrix, self.modulation.bias)

    def map_keys(
        self,
        keys: KeyMap,
        ours: str,
        official: str,
        names: tuple[str, str, str] = ("mlp_shared.0", "mlp_gamma", "mlp_beta"),
    ) -> None:
        """Cover this branch; ``names`` are the file's for its three convolutions."""
        self.shared.map_keys(keys, f"{ours}.shared", f"{official}.{names[0]}")
        pair = [f"{official}.{name}" for name in names[1:]]
        join_pair(keys, f"{ours}.modulation.weight", [f"{p}.weight" for p in pair])
        join_pair(keys, f"{ours}.modulation.bias", [f"{p}.bias" for p in pair])


def join_pair(keys: KeyMap, ours: str, official: list[str]) -> None:
    """``ours`` is two official tensors of equal shape, one after the other on the first axis."""
    both, *rest = keys.shape(ours)
    shapes = dict.fromkeys(official, (both // 2, *rest))
    keys.join(ours, shapes, lambda found: torch.cat([found[k] for k in official]))


def modulate(x: Tensor, norm: nn.Module, level: Level, values: Tensor) -> Tensor:
    """norm(x) * (1 + gamma) + beta.

    In eval mode a batch norm is an affine map; it is applied to the few distinct gammas and betas
    instead of to every pixel.

    Args:
        x: (B, C, h, w).
        norm: the parameter-free normalisation of C channels.
        level: the label map at this size.
        values: (U, 2C) gamma and beta, see ``Level.spread``.
    """
    gamma, beta = values.chunk(2, 1)
    if level.windows is None or norm.training or not isinstance(norm, nn.BatchNorm2d):
        x = norm(x)
        return torch.addcmul(x + level.spread(beta), x, level.spread(gamma))
    scale, shift = frozen_affine(norm)
    gamma = 1 + gamma
    shifts = level.spread(torch.addcmul(beta, gamma, shift))  # a map of its own
    return shifts.addcmul_(x, level.spread(gamma * scale))


def frozen_affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """(scale, shift), each (C,): what a batch norm without parameters does in eval mode."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = torch.rsqrt(norm.running_var + norm.eps)
    return scale, -norm.running_mean * scale


BLOCK_NAMES = {"conv_0": "conv_0", "conv_1": "conv_1", "conv_s": "conv_s"}
"""Convolutions of a block and their names in the files of SPADE's own code."""


class Block(nn.Module):
    """Residual block with three modulated normalisations.

    Args:
        fin, fout: channels; a learned shortcut joins them where they differ.
        make: builds the normalisation of so many channels.
        extra: channels that a normalisation appends to its input's.
        slope: of the leaky ReLU before each 3x3 convolution.
    """

    def __init__(
        self,
        fin: int,
        fout: int,
        make: Callable[[int], nn.Module],
        extra: int = 0,
        slope: float = SLOPE,
    ) -> None:
        super().__init__()
        middle, self.slope = min(fin, fout), slope
        self.conv_0 = Conv2d(fin + extra, middle, 3)
        self.conv_1 = Conv2d(middle + extra, fout, 3)
        self.norm_0, self.norm_1 = make(fin), make(middle)
        self.conv_s = nn.Conv2d(fin + extra, fout, 1, bias=False) if fin != fout else None
        self.norm_s = make(fin) if fin != fout else None

    def forward(self, x: Tensor, norm: Callable[[nn.Module, Tensor, str], Tensor]) -> Tensor:
        """x (B, fin, h, w) -> (B, fout, h, w); ``norm(layer, x, "0" | "1" | "s")`` applies one."""
        skip = x
        if self.conv_s is not None and self.norm_s is not None:
            skip = self.conv_s(norm(self.norm_s, x, "s"))
        x = self.conv_0(F.leaky_relu(norm(self.norm_0, x, "0"), self.slope))
        return skip + self.conv_1(F.leaky_relu(norm(self.norm_1, x, "1"), self.slope))

    def map_keys(
        self,
        keys: KeyMap,
        ours: str,
        spectral: bool,
        official: str | None = None,
        names: Mapping[str, str] = BLOCK_NAMES,
    ) -> None:
        """Cover the convolutions of this block, which the file calls ``official`` (``ours`` by
        default) and its parts ``names``."""
        theirs = official or ours
        for conv, name in names.items():
            if getattr(self, conv) is None:
                continue
            take = keys.spectral if spectral else keys.take
            take(f"{ours}.{conv}.weight", f"{theirs}.{name}.weight")
            if conv != "conv_s":
                keys.take(f"{ours}.{conv}.bias", f"{theirs}.{name}.bias")


@dataclass(frozen=True)
class Step:
    """One block of a generator; ``up``: the features are doubled in size before it."""

    name: str
    fin: int
    fout: int
    up: bool


def generator_steps(ngf: int, mode: str, cap: int | None = None) -> list[Step]:
    """The blocks in their order; ``mode`` is normal, more or most; ``cap`` bounds every width."""
    widths = [min(factor * ngf, cap or factor * ngf) for factor in (16, 8, 4, 2, 1)]
    widths.append(widths[-1] // 2)
    steps = [
        Step("head_0", widths[0], widths[0], False),
        Step("G_middle_0", widths[0], widths[0], True),
        Step("G_middle_1", widths[0], widths[0], mode != "normal"),
    ]
    count = 5 if mode == "most" else 4
    return steps + [Step(f"up_{i}", widths[i], widths[i + 1], True) for i in range(count)]


def latent_size(crop: int, aspect: float, mode: str) -> tuple[int, int]:
    """(h, w) of the generator's start."""
    width = crop // 2 ** UPSAMPLINGS[mode]
    return round(width / aspect), width
