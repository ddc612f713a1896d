"""SC-GAN layer by layer as the paper writes it, on official keys: the slow reference of the fast
network."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from plain_spade import Weights, conv, free_norm, mask_branch
from torch import Tensor

from sisbench.methods.layers.labels import one_hot

_ROUTES = {
    "head_0": 1,
    "G_middle_0": 2,
    "G_middle_1": 2,
    "up_0": 3,
    "up_1": 4,
    "up_2": 5,
    "up_3": 6,
}


def blur(x: Tensor, size: int = 7, sigma: float = 1.5) -> Tensor:
    line = torch.exp(-((torch.arange(size) - size // 2) ** 2) / (2 * sigma**2))
    window = (line[:, None] * line).expand(x.shape[1], 1, size, size)
    return F.conv2d(x, window, padding=size // 2, groups=x.shape[1]) * x


def pyramid(seg: Tensor, position: bool, pyr_pos: bool, pyr_rng: int) -> list[Tensor]:
    if position and not pyr_pos:
        seg = blur(seg)
    levels = [seg]
    for i in range(4, -1, -1):
        mode: dict[str, Any] = {"mode": "nearest"}
        if not pyr_pos:
            mode = {"mode": "bilinear", "align_corners": False}
        seg = F.interpolate(seg, scale_factor=0.5, **mode)
        if position and pyr_pos and 6 - i < pyr_rng:
            seg = blur(seg)
        levels.append(seg)
    if position and pyr_pos:
        levels[0] = blur(levels[0])
    return levels[::-1]


def route(w: Weights, levels: list[Tensor], experts: tuple[int, int]) -> list[tuple[Tensor, ...]]:
    name = "pyramid_spaital_routing.labelDec"
    x = conv(w, f"{name}1.2", F.leaky_relu(conv(w, f"{name}1.0", levels[0]), 0.2))
    found = [x]
    for k in range(2, 7):
        x = torch.cat([F.interpolate(x, scale_factor=2.0, mode="nearest"), levels[k - 1]], 1)
        x = F.leaky_relu(conv(w, f"{name}{k}.1", F.leaky_relu(x, 0.2)), 0.2)
        x = conv(w, f"{name}{k}.3", x)
        found.append(x)
    return [
        tuple(F.adaptive_avg_pool3d(x[:, None], (n, *x.shape[2:]))[:, 0] for n in experts)
        for x in found
    ]


def generate(
    w: Weights, label: Tensor, classes: int, z: Tensor | None, start: tuple[int, int], **o: Any
) -> Tensor:
    """The whole generator; label (B, H, W) in the network's order, options as the method's."""
    seg = one_hot(label, classes)
    levels = pyramid(seg, o["position"], o["pyr_pos"], o["pyr_rng"])
    logits = route(w, levels, (o["num_experts_conv"], o["num_experts_norm"]))

    def expert_norm(name: str, x: Tensor, weight: Tensor) -> Tensor:
        table = w[f"{name}.affine_params_groups"]
        gamma, beta = torch.einsum("behw,ec->bchw", weight, table).chunk(2, 1)
        return free_norm(w, name, x) * (1 + gamma) + beta

    def expert_conv(name: str, x: Tensor, weight: Tensor) -> Tensor:
        parts = [conv(w, f"{name}.conv_bases.{i}", x) for i in range(weight.shape[1])]
        return sum(weight[:, i : i + 1] * part for i, part in enumerate(parts))  # type: ignore

    def block(name: str, x: Tensor) -> Tensor:
        first, second = (torch.softmax(r * o["temperature"], 1) for r in logits[_ROUTES[name] - 1])
        skip = x
        if f"{name}.conv_s.bias" in w:
            small = F.interpolate(seg, x.shape[2:], mode="nearest")
            gamma, beta = mask_branch(w, f"{name}.norm_s", small)
            skip = free_norm(w, f"{name}.norm_s", x) * (1 + gamma) + beta
            skip = conv(w, f"{name}.conv_s", skip)
        x = F.leaky_relu(expert_norm(f"{name}.norm_0", x, second), 0.2)
        x = F.leaky_relu(
            expert_norm(f"{name}.norm_1", expert_conv(f"{name}.conv_0", x, first), second), 0.2
        )
        return skip + expert_conv(f"{name}.conv_1", x, first)

    if z is None:
        x = conv(w, "fc", F.interpolate(seg, start, mode="nearest"))
    else:
        x = F.linear(z, w["fc.weight"], w["fc.bias"]).view(len(z), -1, *start)
    for name in _ROUTES:
        if name not in ("head_0", "G_middle_1"):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        x = block(name, x)
    return F.hardtanh(conv(w, "conv_img", F.leaky_relu(x, 0.2)))
