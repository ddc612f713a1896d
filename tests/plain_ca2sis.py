"""CA2-SIS' generator step by step as the paper writes it, on the modules of ``methods/ca2sis``:
nothing multiplied out, nothing in parts, every layer at the size at which it stands."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from sisbench.methods.ca2sis.network import CA2SISNet
from sisbench.methods.ca2sis.transformer import Block, StyleTransformer
from sisbench.methods.layers.norms import GroupNorm
from sisbench.methods.layers.res_block import ResBlock


def norm(layer: GroupNorm, x: Tensor) -> Tensor:
    """torch's own group norm, of a contiguous map."""
    return F.group_norm(x.contiguous(), layer.num_groups, layer.weight, layer.bias, layer.eps)


def transformer(net: StyleTransformer, x: Tensor, codes: Tensor) -> Tensor:
    """Self-attention (where there is one), cross-attention to the codes, feed-forward."""
    block: Block = net.transformer_blocks[0]  # type: ignore[assignment]
    x0, (height, width) = x, x.shape[2:]

    def attend(part: Any, query: Tensor, context: Tensor) -> Tensor:
        q, k, v = (
            layer(t).unflatten(2, (part.heads, -1)).transpose(1, 2)
            for layer, t in ((part.to_q, query), (part.to_k, context), (part.to_v, context))
        )
        weights = (q @ k.transpose(2, 3) * q.shape[3] ** -0.5).softmax(3)
        return part.to_out[0]((weights @ v).transpose(1, 2).flatten(2))

    t = net.proj_in(norm(net.norm, x)).flatten(2).transpose(1, 2)
    if net.self_attention:
        t = t + attend(block.attn1, block.norm1(t), block.norm1(t))
    t = t + attend(block.attn2, block.norm2(t), codes)
    value, gate = block.ff.net[0].proj(block.norm3(t)).chunk(2, 2)  # type: ignore[union-attr, operator]
    t = t + block.ff.net[2](value * F.gelu(gate))
    return x0 + net.proj_out(t.transpose(1, 2).unflatten(2, (height, width)))


def residual(block: ResBlock, x: Tensor) -> Tensor:
    """Both branches are enlarged before their convolutions."""
    hidden = F.silu(norm(block.in_layers[0], x))
    if block.up:
        hidden, x = (F.interpolate(t, scale_factor=2.0, mode="nearest") for t in (hidden, x))
    hidden = F.silu(norm(block.out_layers[0], block.in_layers[2](hidden)))
    return block.skip_connection(x) + block.out_layers[3](hidden)


def generate(net: CA2SISNet, embedding: Tensor, codes: Tensor) -> Tensor:
    """Mask embeddings (B, ne, E) and codes (B, C, D) -> (B, 3, H, W)."""
    x = net.reshape_conv(embedding.unflatten(2, net.base))
    for i in range(2, 2 + net.stages):
        x = residual(getattr(net, f"res{i}"), x)
        x = transformer(getattr(net, f"cross{i}"), x, codes)
    x = net.out_conv(x)
    return x.tanh() if net.tanh else x
