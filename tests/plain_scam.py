"""SCAM written literally: dense masks over all tokens and pixels, nothing folded, nothing sorted.

The yardstick for results and cost of ``methods/scam``, whose modules it reads the weights from.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sisbench.methods.base import NoiseSource
from sisbench.methods.layers.labels import one_hot


def code(channels: int, height: int, width: int) -> Tensor:
    """(C, h, w)"""
    quarter = channels // 4
    out = torch.zeros(channels, height, width)
    for j in range(quarter):
        f = 10000 ** (-2 * j / (channels / 2))
        column, row = torch.linspace(-1, 1, width) * f, torch.linspace(-1, 1, height)[:, None] * f
        out[j], out[quarter + j] = column.sin(), row.sin()
        out[2 * quarter + j], out[3 * quarter + j] = column.cos(), row.cos()
    return out


def attend(attention, to: Tensor, source: Tensor, mask: Tensor) -> Tensor:
    """(B, t, D), (B, f, E), (B or 1, t, f) -> (B, t, D)"""
    q, k, v = attention.query(to), attention.key(source), attention.value(source)
    q, k, v = (x.unflatten(2, (attention.heads, -1)).transpose(1, 2) for x in (q, k, v))
    logits = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
    logits = logits.masked_fill(mask[:, None] == 0, -10000)
    return attention.out((logits.softmax(3) @ v).transpose(1, 2).flatten(2))


def update(sat, tokens: Tensor, source: Tensor, mask: Tensor) -> Tensor:
    u = sat.ln_1(attend(sat.attention, tokens, source, mask) + tokens)
    return sat.ln_2(u + sat.fc(u))


def token_mask(label: Tensor, config, size: tuple[int, int]) -> Tensor:
    """(B, T, h * w)"""
    planes = F.interpolate(one_hot(label, config.classes), size=size)
    number = torch.tensor([config.k0] + [config.k] * (config.classes - 1))
    return planes.repeat_interleave(number, 1).flatten(2)


def encode(net, config, image: Tensor, label: Tensor) -> Tensor:
    """Tokens (B, T, d)"""
    number = torch.tensor([config.k0] + [config.k] * (config.classes - 1))
    owner = torch.arange(config.classes).repeat_interleave(number)
    own = (owner[:, None] == owner).float()[None]
    tokens, x = net.latents.expand(len(image), -1, -1), image
    for i, level in enumerate(net.backbone.values()):
        size = x.shape[2:]
        if i == 0:
            e = torch.cat([x, code(config.position, *size).expand(len(x), -1, -1, -1)], 1)
        else:
            x = F.leaky_relu(net.convs[str(i)](x), 0.2)
            size = x.shape[2:]
            e = x + code(x.shape[1], *size)
        rows, mask = e.flatten(2).transpose(1, 2), token_mask(label, config, size)
        tokens = update(level.cross_attention, tokens, rows, mask)
        if config.self_attention:
            tokens = update(level.self_attention, tokens, tokens, own)
    return tokens


def modulate(mod, config, x: Tensor, tokens: Tensor, label: Tensor, noise) -> tuple[Tensor, Tensor]:
    size = x.shape[2:]
    rows = (x + code(x.shape[1], *size)).flatten(2).transpose(1, 2)
    mask = token_mask(label, config, size)
    if mod.duplex:
        tokens = update(mod.image_to_latent, tokens, rows, mask)
    else:
        tokens = mod.fc_itl(tokens)
    o = attend(mod.latent_to_image, rows, tokens, mask.transpose(1, 2))
    gamma, beta = (
        f(o).transpose(1, 2).unflatten(2, size) for f in (mod.mlp_lti_gamma, mod.mlp_lti_beta)
    )
    y = (1 + gamma) * F.instance_norm(x) + beta
    if mod.noise_var is not None:
        y = y + mod.noise_var[:, None, None] * noise(x)
    return F.leaky_relu(y, 0.2), tokens


def generate(net, config, label: Tensor, tokens: Tensor, source: NoiseSource) -> Tensor:
    start = F.interpolate(one_hot(label, config.classes), size=config.start)
    x, image = net.first_conv(start), None
    for b, block in enumerate(net.blocks):
        last = b == len(net.blocks) - 1
        size = config.size if last else (2 * x.shape[2], 2 * x.shape[3])
        for j in range(2):
            x, tokens = modulate(
                getattr(block, f"mod_{j}"),
                config,
                x,
                tokens,
                label,
                lambda x, b=b, j=j: source.normal(f"block{b}.{j}", 1, *x.shape[2:]),
            )
            x = getattr(block, f"conv_{j}")(F.leaky_relu(x, 0.2))
            x = F.interpolate(x, size=size) if j == 0 else x
        y = x if last else modulate(block.torgb.mod_rgb, config, x, tokens, label, None)[0]
        share = block.torgb.conv_rgb(y)
        image = share if image is None else F.interpolate(image, size=size) + share
    return torch.tanh(image)
