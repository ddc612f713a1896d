"""The transformer that mixes style codes into a feature map, with what is linear multiplied out."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sisbench.methods.layers.norms import GroupNorm
from sisbench.methods.layers.res_block import norm_groups

_WIDE_CPU, _WIDE = 1 << 22, 1 << 28  # numbers of the feed-forward layer held at a time
_SMALL, _NARROW_CPU = 1 << 17, 1 << 18  # on a CPU, where its matrix leaves room in the cache


class Attention(nn.Module):
    """Multi-head attention from ``dim`` wide tokens to ``context_dim`` wide ones."""

    def __init__(self, dim: int, context_dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(context_dim, dim, bias=False)
        self.to_v = nn.Linear(context_dim, dim, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])

    @property
    def last(self) -> nn.Linear:
        """The output projection."""
        return cast(nn.Linear, self.to_out[0])

    @property
    def scale(self) -> float:
        """What logits are multiplied by."""
        return float((self.to_q.weight.shape[0] // self.heads) ** -0.5)

    def split(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, heads, N, D / heads)"""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """(B, N, D), (B, M, context_dim) -> (B, N, D)"""
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
        out = F.scaled_dot_product_attention(self.split(q), self.split(k), self.split(v))
        return self.last(out.transpose(1, 2).flatten(2))

    def mean_logits(self, x: Tensor, context: Tensor) -> Tensor:
        """Scaled logits before the softmax, mean over heads: (B, N, M)."""
        product = self.to_q(x) @ self.to_k(context).transpose(1, 2)
        return product * (self.scale / self.heads)

    def head_logits(self, x: Tensor, context: Tensor) -> Tensor:
        """Scaled logits before the softmax: (B, heads, N, M)."""
        q, k = self.split(self.to_q(x)), self.split(self.to_k(context))
        return q @ k.transpose(2, 3) * self.scale

    def _tables(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys times the query projection, and values times the output projection.

        Args:
            context: (B, M, context_dim).

        Returns:
            Two tensors (B, heads * M, D).
        """
        k, v = self.split(self.to_k(context)), self.split(self.to_v(context))  # (B, heads, M, d)
        query = self.to_q.weight.unflatten(0, (self.heads, -1))  # (heads, d, D)
        out = self.last.weight.unflatten(1, (self.heads, -1)).permute(1, 2, 0)  # (heads, d, D)
        return ((k * self.scale) @ query).flatten(1, 2), (v @ out).flatten(1, 2)

    def few_keys(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """The attention in its cheaper form for few keys.

        Returns:
            probabilities (B, N, heads * M) and values (B, heads * M, D), whose product is the
            output without the bias of ``to_out``.
        """
        keys, values = self._tables(context)
        logits = (x @ keys.transpose(1, 2)).unflatten(2, (self.heads, -1))
        return logits.softmax(3).flatten(2), values


class _Gate(nn.Module):
    """Holds the first layer of the feed-forward part under its official name."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, 8 * dim)


class FeedForward(nn.Module):
    """Parameters of a gated GELU (GEGLU), four times as wide; ``StyleTransformer`` runs them."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = nn.ModuleList([_Gate(dim), nn.Dropout(0.0), nn.Linear(4 * dim, dim)])

    @property
    def first(self) -> nn.Linear:
        """Values and gates, (dim -> 8 dim)."""
        return cast(_Gate, self.net[0]).proj

    @property
    def second(self) -> nn.Linear:
        """Back from 4 dim to dim."""
        return cast(nn.Linear, self.net[2])


class Block(nn.Module):
    """Parameters of one transformer block under their official names."""

    def __init__(self, dim: int, context_dim: int, heads: int, self_attention: bool) -> None:
        super().__init__()
        if self_attention:
            self.attn1 = Attention(dim, dim, heads)
            self.norm1 = nn.LayerNorm(dim)
        self.attn2 = Attention(dim, context_dim, heads)
        self.ff = FeedForward(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)


class StyleTransformer(nn.Module):
    """Optional self-attention, cross-attention to style codes, feed-forward (CA2-SIS, sec. III-C).

    Three exact products of matrices keep the cost down, for training too:

    1. With fewer (head, class) pairs than ``dim``, the query projection is multiplied into the
       keys, and the output projection into the values.
    2. Without self-attention, the input of the last layer norm is then a linear map of few numbers
       per pixel (the ``channels`` input features and the attention probabilities): the first
       feed-forward layer is applied to that map's matrix instead of to every pixel.
    3. Only the output projection follows the second feed-forward layer: the two are one matrix.

    All are computed in every call (under 1 % of its cost), so no copy of a weight can be stale.

    Args:
        channels: channels of the feature map.
        context_dim: width of a style code.
        heads, head_dim: of both attentions.
        self_attention: whether pixels attend to one another first.
    """

    def __init__(
        self, channels: int, context_dim: int, heads: int, head_dim: int, self_attention: bool
    ) -> None:
        super().__init__()
        dim = heads * head_dim
        self.dim = dim
        self.self_attention = self_attention
        self.norm = GroupNorm(norm_groups(channels), channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, dim, 1)
        self.transformer_blocks = nn.ModuleList([Block(dim, context_dim, heads, self_attention)])
        self.proj_out = nn.Conv2d(dim, channels, 1)
        for parameter in self.proj_out.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self,
        x: Tensor,
        codes: Tensor,
        maps: list[Tensor] | None = None,
        per_head: bool = False,
    ) -> Tensor:
        """Mix styles into a feature map.

        Args:
            x: (B, channels, h, w).
            codes: (B, M, context_dim), one per class.
            maps: receives the attention logits before the softmax, mean over heads, (B, M, h, w).
            per_head: those of each head instead, (B, heads, M, h, w).

        Returns:
            (B, channels, h, w)
        """
        block = cast(Block, self.transformer_blocks[0])
        features = self.norm(x).flatten(2).transpose(1, 2)  # (B, h*w, channels)
        tokens = F.linear(features, self.proj_in.weight.flatten(1), self.proj_in.bias)
        if self.self_attention:
            normed = block.norm1(tokens)
            tokens = tokens + block.attn1(normed, normed)
        queries = block.norm2(tokens)
        if maps is not None:
            attention = block.attn2
            logits = (attention.head_logits if per_head else attention.mean_logits)(queries, codes)
            maps.append(logits.transpose(-1, -2).unflatten(-1, x.shape[2:]))
        pairs = block.attn2.heads * codes.shape[1]
        if pairs >= self.dim:
            out = self._feed_forward(block, tokens + block.attn2(queries, codes))
        else:
            probabilities, values = block.attn2.few_keys(queries, codes)
            if self.self_attention or features.shape[2] + pairs >= self.dim:
                tokens = tokens + block.attn2.last.bias
                out = self._feed_forward(block, torch.baddbmm(tokens, probabilities, values))
            else:
                out = self._low_rank(block, features, probabilities, values)
        return x + out.transpose(1, 2).unflatten(2, x.shape[2:])

    def _feed_forward(self, block: Block, tokens: Tensor) -> Tensor:
        """Norm, feed-forward, residual, output projection: (B, h*w, D) -> (B, h*w, channels)."""
        second = block.ff.second
        out = self.proj_out.weight.flatten(1)  # (channels, D)
        first = block.ff.first
        matrix = first.weight.t().expand(tokens.shape[0], -1, -1)
        if tokens.shape[1] * (self.dim - out.shape[0]) > self.dim * out.shape[0]:
            direct = F.linear(tokens, out, cast(Tensor, self.proj_out.bias) + out @ second.bias)
            normed = block.norm3(tokens)
            return direct + self._gated(normed, matrix, first.bias, out @ second.weight)
        # So few tokens that the product of the two matrices would cost more than it saves.
        hidden = self._gated(block.norm3(tokens), matrix, first.bias, second.weight)
        return F.linear(tokens + hidden + second.bias, out, self.proj_out.bias)

    def _low_rank(
        self, block: Block, features: Tensor, probabilities: Tensor, values: Tensor
    ) -> Tensor:
        """The same, from the few numbers per pixel that a token is a linear map of."""
        first, second, norm = block.ff.first, block.ff.second, block.norm3
        out = self.proj_out.weight.flatten(1)
        # The probabilities of the first head add up to 1, so its values can carry the constant.
        classes = values.shape[1] // block.attn2.heads
        constant = block.attn2.last.bias + cast(Tensor, self.proj_in.bias)
        entry = self.proj_in.weight.flatten(1).t().expand(values.shape[0], -1, -1)
        basis = torch.cat([entry, values[:, :classes] + constant, values[:, classes:]], 1)
        few = torch.cat([features, probabilities], 2)  # tokens are few @ basis
        centred = basis - basis.mean(2, keepdim=True)
        norms = torch.linalg.vector_norm(few @ centred, dim=2, keepdim=True)
        normed = few * (norms.square() / self.dim + norm.eps).rsqrt()
        # The bias is a row of the matrix, for a number that is always 1: no copies of it are added.
        normed = F.pad(normed, (0, 1), value=1.0)
        bias = (first.bias + first.weight @ norm.bias).expand(len(centred), 1, -1)
        matrix = torch.cat([(centred * norm.weight) @ first.weight.t(), bias], 1)
        direct = torch.baddbmm(
            cast(Tensor, self.proj_out.bias) + out @ second.bias, few, basis @ out.t()
        )
        return direct + self._gated(normed, matrix, None, out @ second.weight)

    def _gated(self, x: Tensor, first: Tensor, bias: Tensor | None, second: Tensor) -> Tensor:
        """Gated GELU between two linear layers, some pixels at a time.

        So the wide layer stays in the cache (CPU) or within 1 GiB.

        Args:
            x: (B, h*w, K); first: (B, K, 8 D); bias: (8 D) or None; second: (out, 4 D).

        Returns:
            (B, h*w, out)
        """
        budget = _WIDE
        if x.device.type == "cpu":
            budget = _NARROW_CPU if first[0].numel() <= _SMALL else _WIDE_CPU
        rows = max(1, budget // (first.shape[2] * x.shape[0]))
        parts = []
        for part in x.split(rows, 1):
            wide = part @ first if bias is None else torch.baddbmm(bias, part, first)
            value, gate = wide.chunk(2, 2)
            gate = F.gelu(gate)
            gated = value * gate if torch.is_grad_enabled() else gate.mul_(value)
            parts.append(F.linear(gated, second))
        return torch.cat(parts, 1)
