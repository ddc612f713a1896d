"""The transformer that mixes style codes into a feature map, with what is linear multiplied out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
        return self.to_out[0](out.transpose(1, 2).flatten(2))

    def mean_logits(self, x: Tensor, context: Tensor) -> Tensor:
        """Scaled logits before the softmax, mean over heads: (B, N, M)."""
        product = self.to_q(x) @ self.to_k(context).transpose(1, 2)
        return product * (self.scale / self.heads)

    def tables(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys behind the query projection and values behind the output projection.

        Returns:
            two (B, heads * M, D): logits are ``x @ keys^T``; the output is ``probabilities @
            values`` plus the bias of ``to_out``.
        """
        k, v = self.split(self.to_k(context)), self.split(self.to_v(context))  # (B, heads, M, d)
        query = self.to_q.weight.unflatten(0, (self.heads, -1))  # (heads, d, D)
        out = self.to_out[0].weight.unflatten(1, (self.heads, -1)).permute(1, 2, 0)  # (heads, d, D)
        return ((k * self.scale) @ query).flatten(1, 2), (v @ out).flatten(1, 2)


class _Gate(nn.Module):
    """Holds the first layer of the feed-forward part under its official name."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, 8 * dim)


class FeedForward(nn.Module):
    """Gated GELU (GEGLU) of four times the width: parameters only, ``StyleTransformer`` runs
    them."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = nn.ModuleList([_Gate(dim), nn.Dropout(0.0), nn.Linear(4 * dim, dim)])


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
    """Self-attention (where asked for), cross-attention to style codes, feed-forward (CA2-SIS
    section III-C).

    Exact algebra keeps the cost down, for training too. (1) With fewer (head, class) pairs than
    ``dim``, the query projection goes into the keys and the output projection into the values. (2)
    Without self-attention, what enters the last layer norm is then a linear map of the ``channels``
    input features and the attention probabilities, few numbers a pixel: the first feed-forward
    layer is applied to that map's matrix and not to the pixels. (3) Nothing but the output
    projection follows the second feed-forward layer: the two are one matrix. All three are made
    anew in each call (under 1 % of its cost), so no copy of a weight can be out of date.

    Args:
        channels: of the feature map, a multiple of 32.
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
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, dim, 1)
        self.transformer_blocks = nn.ModuleList([Block(dim, context_dim, heads, self_attention)])
        self.proj_out = nn.Conv2d(dim, channels, 1)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, x: Tensor, codes: Tensor, maps: list[Tensor] | None = None) -> Tensor:
        """Mix styles into a feature map.

        Args:
            x: (B, channels, h, w).
            codes: (B, M, context_dim), one a class.
            maps: receives the attention logits before the softmax, mean over heads, as
            (B, M, h, w).

        Returns:
            (B, channels, h, w)
        """
        block = self.transformer_blocks[0]
        features = self.norm(x).flatten(2).transpose(1, 2)  # (B, h*w, channels)
        tokens = F.linear(features, self.proj_in.weight.flatten(1), self.proj_in.bias)
        if self.self_attention:
            normed = block.norm1(tokens)
            tokens = tokens + block.attn1(normed, normed)
        queries = block.norm2(tokens)
        if maps is not None:
            logits = block.attn2.mean_logits(queries, codes)
            maps.append(logits.transpose(1, 2).unflatten(2, x.shape[2:]))
        if block.attn2.heads * codes.shape[1] >= self.dim:
            tokens = tokens + block.attn2(queries, codes)
            hidden = block.ff.net[0].proj(block.norm3(tokens))
        else:
            tokens, hidden = self._few_keys(block, features, tokens, queries, codes)
        return x + self._project(block, tokens, hidden).transpose(1, 2).unflatten(2, x.shape[2:])

    def _few_keys(
        self, block: Block, features: Tensor, tokens: Tensor, queries: Tensor, codes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Tokens after the cross-attention, and the first feed-forward layer's output."""
        heads, classes = block.attn2.heads, codes.shape[1]
        keys, values = block.attn2.tables(codes)  # (B, heads * M, D) each
        logits = (queries @ keys.transpose(1, 2)).unflatten(2, (heads, classes))
        probabilities = logits.softmax(3).flatten(2)  # (B, h*w, heads * M)
        tokens = torch.baddbmm(tokens + block.attn2.to_out[0].bias, probabilities, values)
        if self.self_attention or features.shape[2] + heads * classes >= self.dim:
            return tokens, block.ff.net[0].proj(block.norm3(tokens))
        return tokens, self._low_rank(block, features, probabilities, tokens, values)

    def _low_rank(
        self, block: Block, features: Tensor, probabilities: Tensor, tokens: Tensor, values: Tensor
    ) -> Tensor:
        """First feed-forward layer behind the layer norm, by way of the few numbers that the tokens
        are a linear map of: (B, h*w, 8 D)."""
        first, norm = block.ff.net[0].proj, block.norm3
        bias = block.attn2.to_out[0].bias + self.proj_in.bias
        # The probabilities of the first head add up to 1, so its values can carry the constant.
        classes = values.shape[1] // block.attn2.heads
        values = torch.cat([values[:, :classes] + bias, values[:, classes:]], 1)
        entry = self.proj_in.weight.flatten(1).t().expand(values.shape[0], -1, -1)
        basis = torch.cat([entry, values], 1)  # (B, channels + heads * M, D)
        basis = (basis - basis.mean(2, keepdim=True)) * norm.weight
        few = torch.cat([features, probabilities], 2)
        few = few * (tokens.var(2, correction=0, keepdim=True) + norm.eps).rsqrt()
        constant = first.bias + first.weight @ norm.bias
        return torch.baddbmm(constant, few, basis @ first.weight.t())

    def _project(self, block: Block, tokens: Tensor, hidden: Tensor) -> Tensor:
        """Gate, second feed-forward layer, residual and output projection: (B, h*w, channels)."""
        second = block.ff.net[2]
        out = self.proj_out.weight.flatten(1)  # (channels, D)
        value, gate = hidden.chunk(2, 2)
        direct = F.linear(tokens, out, self.proj_out.bias + out @ second.bias)
        return direct + F.linear(value * F.gelu(gate), out @ second.weight)
