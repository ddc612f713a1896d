"""Masked attention between the tokens and the pixels of a class, without the dense mask."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sisbench.methods.scam.regions import Blocks, Regions
from sisbench.methods.scam.tokens import TokenIndex

_SLOPE = 0.2


@lru_cache(maxsize=64)
def position_code(channels: int, height: int, width: int, device: torch.device) -> Tensor:
    """Sinusoidal code (h, w, C): sin of column and row, cos of column and row, C/4 each."""
    with torch.inference_mode(False):  # the cached tensor must serve training too
        steps = torch.arange(channels // 4, dtype=torch.float32, device=device)
        frequency = 1.0 / 10000 ** (2 * steps / (channels // 2))
        column = torch.linspace(-1, 1, width, device=device)[:, None] * frequency
        row = torch.linspace(-1, 1, height, device=device)[:, None] * frequency
        column, row = column.expand(height, -1, -1), row[:, None].expand(-1, width, -1)
        return torch.cat([column.sin(), row.sin(), column.cos(), row.cos()], 2)


@dataclass(frozen=True)
class Pixels:
    """The features that tokens and pixels attend with, in raster order and in blocks.

    Attributes:
        rows: (B, h * w, D) features with their position code.
        blocks: the order by class at this size.
        sorted: (B, N, L, D) the same rows in blocks.
        regions: the classes of the label maps.
    """

    rows: Tensor
    blocks: Blocks
    sorted: Tensor
    regions: Regions

    @staticmethod
    def of(features: Tensor, regions: Regions) -> Pixels:
        """From feature rows with position code, (B, h, w, D)."""
        blocks = regions.blocks((features.shape[1], features.shape[2]))
        rows = features.flatten(1, 2)
        return Pixels(rows, blocks, blocks.gather(rows), regions)


class Attention(nn.Module):
    """Multi-head attention; the official checkpoint calls ``key`` v_linear and ``value`` k_linear.

    Args:
        to: width of what attends.
        source: width of what is attended to.
        inner: width a of queries, keys and values.
        heads: number of heads; a head has a / heads channels, heads first.
    """

    def __init__(self, to: int, source: int, inner: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Linear(to, inner)
        self.key = nn.Linear(source, inner)
        self.value = nn.Linear(source, inner)
        self.out = nn.Linear(inner, to)
        self.heads = heads
        self.scale = 1 / math.sqrt(inner // heads)

    def head_weight(self, linear: nn.Linear) -> Tensor:
        """(heads, a / heads, D) of a linear layer into the heads."""
        return linear.weight.unflatten(0, (self.heads, -1))

    def within_classes(self, tokens: Tensor, index: TokenIndex) -> Tensor:
        """Tokens (B, T, d) attend the tokens of their own class -> (B, T, d)."""
        padded = index.by_class(tokens)  # (B, C, M, d)
        q, k, v = (
            f(padded).unflatten(3, (self.heads, -1)).transpose(2, 3)  # (B, C, h, M, i)
            for f in (self.query, self.key, self.value)
        )
        logits = (q @ k.transpose(3, 4) * self.scale).masked_fill(
            ~index.valid[:, None, None], torch.finfo(q.dtype).min
        )
        mixed = (logits.softmax(4) @ v).transpose(2, 3).flatten(3)  # (B, C, M, a)
        return self.out(index.flat(mixed))

    def tokens_to_pixels(self, tokens: Tensor, index: TokenIndex, pixels: Pixels) -> Tensor:
        """Tokens (B, T, d) attend the pixels of their class -> (B, T, d).

        Queries are folded into the features' space (the key's bias cancels in the softmax) and the
        value's projection follows the aggregation. Tokens of a class without a pixel at this size
        get the mean over all pixels: a row of equal logits.
        """
        classes, blocks = pixels.regions.classes, pixels.blocks
        query = self.query(index.of_ranks(tokens, classes)).unflatten(3, (self.heads, -1))
        folded = torch.einsum("bpmhi,hid->bphmd", query * self.scale, self.head_weight(self.key))
        folded = folded.flatten(2, 3)  # (B, P, h * M, D)
        logits = pixels.sorted @ blocks.of_group(folded).transpose(2, 3)  # (B, N, L, h * M)
        if self.training:  # no effect and no gradient, but data-parallel training wants one
            logits = logits + 0 * self.key.bias.sum()
        gathered, total = _mean_by_group(logits, pixels)
        mean = pixels.rows.mean(1)  # (B, D)
        empty = (blocks.counts == 0)[:, :, None, None]
        total = total.masked_fill(empty[..., 0], 1)  # no clamp: at 1 itself it stops the gradient
        gathered = torch.where(empty, mean[:, None, None], gathered / total[..., None])
        gathered = gathered.unflatten(2, (self.heads, -1))  # (B, P, h, M, D)
        value = torch.einsum("bphmd,hid->bpmhi", gathered, self.head_weight(self.value)).flatten(3)
        found = self.out(value + self.value.bias)  # (B, P, M, d)
        return index.spread(found, classes, self.out(self.value(mean)))


def _mean_by_group(logits: Tensor, pixels: Pixels) -> tuple[Tensor, Tensor]:
    """Sums of the softmax numerators over each class, weighted with the pixels and plain.

    The largest numerator of a row is 1, so that a row's plain sum is at least 1.

    Args:
        logits: (B, N, L, R) of each place for R rows of its group.

    Returns:
        (B, P, R, D) and (B, P, R).
    """
    blocks = pixels.blocks
    batch, _, _, rows = logits.shape
    groups = blocks.counts.shape[1]
    empty = ~blocks.filled[..., None]
    lowest = torch.finfo(logits.dtype).min
    highest = logits.detach().masked_fill(empty, lowest).amax(2)  # (B, N, R); it cancels
    owner = blocks.group[:, :, None].expand(-1, -1, rows)
    top = logits.new_full((batch, groups + 1, rows), lowest)
    top = top.scatter_reduce(1, owner, highest, "amax").gather(1, owner)  # (B, N, R)
    weight = (logits - top[:, :, None]).masked_fill(empty, lowest).exp()
    joined = torch.arange(groups, device=logits.device)[:, None] == blocks.group[:, None]
    join = joined.to(logits.dtype)  # (B, P, N): a product, where index_add would be unordered
    sums = weight.transpose(2, 3) @ pixels.sorted  # (B, N, R, D)
    weighted = (join @ sums.flatten(2)).unflatten(2, sums.shape[2:])
    return weighted, join @ weight.sum(2)


class TokenUpdate(nn.Module):
    """The SAT operation: u = LN(attention + z), result LN(u + F(u)).

    Both layer norms run over tokens and channels together, which couples all classes.

    Args:
        tokens: their number T.
        dim: their width d.
        attention: from width d.
    """

    def __init__(self, tokens: int, dim: int, attention: Attention) -> None:
        super().__init__()
        self.attention = attention
        self.ln_1 = nn.LayerNorm((tokens, dim))
        self.fc = token_mlp(dim, last_activation=True)
        self.ln_2 = nn.LayerNorm((tokens, dim))

    def update(self, tokens: Tensor, attended: Tensor) -> Tensor:
        """Tokens and what they attended to, (B, T, d) each -> (B, T, d)."""
        u = self.ln_1(attended + tokens)
        return self.ln_2(u + self.fc(u))

    def forward(self, tokens: Tensor, index: TokenIndex, pixels: Pixels) -> Tensor:
        """Attend the pixels of the own class."""
        return self.update(tokens, self.attention.tokens_to_pixels(tokens, index, pixels))


def token_mlp(dim: int, last_activation: bool) -> nn.Sequential:
    """Linear, LeakyReLU, Linear, and a LeakyReLU at the end of the token update's one."""
    layers: list[nn.Module] = [nn.Linear(dim, dim), nn.LeakyReLU(_SLOPE), nn.Linear(dim, dim)]
    return nn.Sequential(*layers, *([nn.LeakyReLU(_SLOPE)] if last_activation else []))


def leaky(x: Tensor, times: int = 1) -> Tensor:
    """LeakyReLU, applied ``times`` times in a row."""
    return F.leaky_relu(x, _SLOPE**times)
