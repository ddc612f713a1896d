"""MaskGAN layer by layer as the paper writes it, on official keys: the slow reference of the fast
network."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from plain_spade import Weights
from torch import Tensor


def conv(
    w: Weights, name: str, x: Tensor, stride: int = 1, pad: int = 0, mode: str = "reflect"
) -> Tensor:
    if pad:
        x = F.pad(x, (pad,) * 4, mode=mode)
    return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride)


def sft(w: Weights, name: str, x: Tensor, by: Tensor) -> Tensor:
    scale, shift = (
        conv(w, f"{name}.SFT_{p}_conv2", F.leaky_relu(conv(w, f"{name}.SFT_{p}_conv1", by), 0.1))
        for p in ("scale", "shift")
    )
    return x * scale + shift


def stem(w: Weights, name: str, x: Tensor) -> Tensor:
    x = F.relu(conv(w, f"{name}.0.conv", x, 1, 3))
    return conv(w, f"{name}.2.conv", F.relu(conv(w, f"{name}.1.conv", x, 2, 1)), 2, 1)


def style(w: Weights, image: Tensor, seg: Tensor) -> Tensor:
    """The AdaIN parameters of a photograph and its one-hot map."""
    f1 = stem(w, "enc_label.model", seg)
    f2 = F.relu(f1)
    for i in (1, 2, 3):
        f2 = conv(w, f"enc_label.model_last.{i}.conv", f2, 2, 1)
        f2 = F.relu(f2) if i < 3 else f2
    x = sft(w, "enc_style.sft1", F.relu(stem(w, "enc_style.model", image)), f1)
    for i in range(3):
        x = F.relu(conv(w, f"enc_style.model_middle.{i}.conv", x, 2, 1))
    x = sft(w, "enc_style.sft2", x, f2).mean((2, 3), keepdim=True)
    return conv(w, "enc_style.model_last.1", x).flatten(1)


def draw(w: Weights, seg: Tensor, code: Tensor, downs: int, blocks: int) -> Tensor:
    """A one-hot map in the style of AdaIN parameters."""

    def norm(x: Tensor) -> Tensor:
        return F.relu(F.instance_norm(x))

    x = norm(conv(w, "model.1", seg, 1, 3))
    for i in range(downs):
        x = norm(conv(w, f"model.{4 + 3 * i}", x, 2, 1, "constant"))
    table = code.view(len(code), blocks, 2, 2, x.shape[1], 1, 1)
    middle = 4 + 3 * downs
    for i in range(blocks):
        y = x
        for j in (0, 1):
            y = F.instance_norm(conv(w, f"model.{middle + i}.conv_block.{j}.conv", y, 1, 1))
            y = y * table[:, i, j, 1] + table[:, i, j, 0]
            y = F.relu(y) if j == 0 else y
        x = x + y
    up = middle + blocks
    for i in range(downs):
        name = f"model.{up + 3 * i}"
        x = F.conv_transpose2d(x, w[f"{name}.weight"], w[f"{name}.bias"], 2, 1, 1)
        x = norm(x)
    return torch.tanh(conv(w, f"model.{up + 3 * downs + 1}", x, 1, 3))
