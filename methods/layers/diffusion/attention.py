"""Transformer layers of latent diffusion's UNet; SCA-DM's masked cross-attention as a look-up."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sisbench.methods.layers.diffusion.branches import over_branches, widen
from sisbench.methods.layers.norms import GroupNorm

Keys = tuple[Tensor, Tensor]
"""Keys and values (B, heads, C, d) of a cross-attention without mask."""
StyleTerm = Tensor | Keys
"""What a cross-attention adds in one branch, as far as it is constant over the steps: the term
itself, broadcast to (B, h*w, width), or the keys and values that it still has to attend to."""


class Attention(nn.Module):
    """Multi-head attention with scale d^-0.5, no bias on q, k, v and one on the output.

    Args:
        width: channels of the queries and of the output.
        context: channels of keys and values; ``width`` for self-attention.
        head: channels of a head.
    """

    def __init__(self, width: int, context: int, head: int) -> None:
        super().__init__()
        self.heads = width // head
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context, width, bias=False)
        self.to_v = nn.Linear(context, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width))

    def keys(self, context: Tensor) -> Keys:
        """(B, T, context) -> keys and values, (B, heads, T, d) each."""
        return self._split(self.to_k(context)), self._split(self.to_v(context))

    def attend(self, x: Tensor, keys: Keys) -> Tensor:
        """Attention without mask: (B, N, width) -> (B, N, width)."""
        mixed = F.scaled_dot_product_attention(self._split(self.to_q(x)), *keys)
        return self.to_out(self._join(mixed))

    def forward(self, x: Tensor) -> Tensor:
        """Self-attention: (B, N, width) -> (B, N, width)."""
        return self.attend(x, self.keys(x))

    def scores(self, x: Tensor, context: Tensor) -> Tensor:
        """Scaled scores before any mask: (B, N, width), (B, T, context) -> (B, heads, N, T)."""
        q, k = self._split(self.to_q(x)), self._split(self.to_k(context))
        return (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5

    def masked(self, x: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """Attention under any mask, also a soft one (SCA-DM, eq. 8 as the code has it).

        Scores are multiplied by the mask, and a score that is exactly zero then excludes its class;
        where no class is left, all weigh the same. For label maps ``table`` gives the same.

        Args:
            x: (B, N, width) tokens.
            context: (B, C, context) one code a class.
            mask: (B, N, C), any values >= 0.

        Returns:
            (B, N, width).
        """
        scores = self.scores(x, context) * mask[:, None]
        scores = scores.masked_fill(scores == 0, -torch.finfo(scores.dtype).max)
        return self.to_out(self._join(scores.softmax(-1) @ self._split(self.to_v(context))))

    def table(self, context: Tensor) -> Tensor:
        """What ``masked`` gives a pixel of each class, when exactly one class holds the pixel.

        One finite score is left, so the softmax is one-hot and queries and keys drop out. The last
        row serves pixels of no class: the mean over all classes. So does the row of a class whose
        code is the zero vector: its score is exactly zero.

        Args:
            context: (B, C, context).

        Returns:
            (B, C + 1, width).
        """
        values = self.to_v(context)
        mean = values.mean(1, keepdim=True)
        values = torch.where((context == 0).all(-1, keepdim=True), mean, values)
        return self.to_out(torch.cat([values, mean], 1))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, N, d)

    def _join(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(2)  # (B, N, heads * d)


class GEGLU(nn.Module):
    """Linear to twice the width, one half gated by the GELU of the other."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., inner)."""
        value, gate = self.proj(x).chunk(2, -1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """GEGLU to four times the width, and back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # item 1 was a dropout of rate 0: it keeps the official key of the last layer
        self.net = nn.Sequential(
            GEGLU(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        return self.net(x)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to the class codes, feed-forward; pre-norm, residual."""

    def __init__(self, width: int, context: int, head: int) -> None:
        super().__init__()
        self.attn1 = Attention(width, width, head)
        self.ff = FeedForward(width)
        self.attn2 = Attention(width, context, head)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, x: Tensor, terms: Sequence[StyleTerm], batch: int) -> Tensor:
        """(B or branches * B, N, width) -> (branches * B, N, width); see ``over_branches``."""
        x = x + self.attn1(self.norm1(x))
        x = over_branches(x, terms, batch, self._add_style)
        return x + self.ff(self.norm3(x))

    def _add_style(self, x: Tensor, term: StyleTerm) -> Tensor:
        if isinstance(term, Tensor):  # a look-up needs neither norm2 nor queries
            return x + term
        return x + self.attn2.attend(self.norm2(x), term)


class SpatialTransformer(nn.Module):
    """A transformer block on the pixels of a feature map, with a residual around it.

    Args:
        channels: of the map, and inner width.
        context: channels of a class code.
        head: channels of a head.
    """

    def __init__(self, channels: int, context: int, head: int) -> None:
        super().__init__()
        self.norm = GroupNorm(32, channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(channels, context, head)])
        self.proj_out = nn.Conv2d(channels, channels, 1)

    @property
    def _cross(self) -> Attention:
        return self.transformer_blocks[0].attn2  # type: ignore[return-value]

    def style_term(self, codes: Tensor, label: Tensor | None) -> StyleTerm:
        """The constant part of the cross-attention.

        Args:
            codes: (B, C, context).
            label: (B, h, w) int64 at this layer's size, holes as C; None: attention without mask.
        """
        attention = self._cross
        if label is None:
            return attention.keys(codes)
        table = attention.table(codes)  # (B, C + 1, width)
        rows = torch.arange(table.shape[0], device=table.device)[:, None]
        return table[rows, label.flatten(1)]  # (B, h*w, width)

    def null_term(self) -> Tensor:
        """The same for zero codes: all values are zero, so the output's bias is left."""
        output: nn.Linear = self._cross.to_out[0]  # type: ignore[assignment]
        return output.bias

    def forward(self, x: Tensor, terms: Sequence[StyleTerm], batch: int) -> Tensor:
        """(B or branches * B, D, h, w) -> (branches * B, D, h, w); see ``over_branches``."""
        tokens = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)  # (B, h*w, D)
        tokens = self.transformer_blocks[0](tokens, terms, batch)
        image = tokens.transpose(1, 2).unflatten(2, x.shape[2:])
        return widen(x, image.shape[0]) + self.proj_out(image)
