"""SPADE and SEAN layer by layer as the papers write them, on official keys: the slow reference of
the fast networks. Used for laws that no fixture holds (holes, kernels, norms), and for timings."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = Mapping[str, Tensor]


def conv(w: Weights, name: str, x: Tensor) -> Tensor:
    """A convolution with "same" padding; divided by sigma where it is spectrally normalised."""
    weight = w.get(f"{name}.weight")
    if weight is None:
        weight = w[f"{name}.weight_orig"]
        weight = weight / (w[f"{name}.weight_u"] @ weight.flatten(1) @ w[f"{name}.weight_v"])
    return F.conv2d(x, weight, w.get(f"{name}.bias"), padding=weight.shape[-1] // 2)


def free_norm(w: Weights, name: str, x: Tensor) -> Tensor:
    """Batch norm with running statistics, instance norm where there are none."""
    mean = w.get(f"{name}.param_free_norm.running_mean")
    if mean is None:
        return F.instance_norm(x)
    return F.batch_norm(x, mean, w[f"{name}.param_free_norm.running_var"])


def mask_branch(w: Weights, name: str, seg: Tensor) -> tuple[Tensor, Tensor]:
    hidden = F.relu(conv(w, f"{name}.mlp_shared.0", seg))
    return conv(w, f"{name}.mlp_gamma", hidden), conv(w, f"{name}.mlp_beta", hidden)


def spade_norm(w: Weights, name: str, x: Tensor, seg: Tensor, codes: Tensor | None) -> Tensor:
    gamma, beta = mask_branch(w, name, seg)
    return free_norm(w, name, x) * (1 + gamma) + beta


def ace_norm(w: Weights, name: str, x: Tensor, seg: Tensor, codes: Tensor) -> Tensor:
    """ACE without noise."""
    name = name.replace("norm_", "ace_")
    gamma, beta = mask_branch(w, f"{name}.Spade", seg)
    if f"{name}.conv_gamma.weight" in w:
        style = torch.zeros(x.shape[0], codes.shape[2], *x.shape[2:])
        for j in range(seg.shape[1]):
            vector = F.relu(
                F.linear(codes[:, j], w[f"{name}.fc_mu{j}.weight"], w[f"{name}.fc_mu{j}.bias"])
            )
            style += vector[:, :, None, None] * seg[:, j : j + 1]
        share_gamma = torch.sigmoid(w[f"{name}.blending_gamma"])
        share_beta = torch.sigmoid(w[f"{name}.blending_beta"])
        gamma = share_gamma * conv(w, f"{name}.conv_gamma", style) + (1 - share_gamma) * gamma
        beta = share_beta * conv(w, f"{name}.conv_beta", style) + (1 - share_beta) * beta
    return free_norm(w, name, x) * (1 + gamma) + beta


def generate(
    w: Weights,
    seg: Tensor,
    start: tuple[int, int],
    codes: Tensor | None = None,
    z: Tensor | None = None,
    mode: str = "normal",
    norm: Callable[..., Tensor] | None = None,
) -> Tensor:
    """The whole generator: one-hot map (B, C, H, W), codes (SEAN) or z (SPADE's VAE); ``norm`` is
    another method's."""
    norm = norm or (spade_norm if codes is None else ace_norm)

    def block(name: str, x: Tensor) -> Tensor:
        s = F.interpolate(seg, x.shape[2:], mode="nearest")
        skip = x
        if f"{name}.conv_s.weight_orig" in w or f"{name}.conv_s.weight" in w:
            skip = conv(w, f"{name}.conv_s", norm(w, f"{name}.norm_s", x, s, codes))
        x = conv(w, f"{name}.conv_0", F.leaky_relu(norm(w, f"{name}.norm_0", x, s, codes), 0.2))
        return skip + conv(
            w, f"{name}.conv_1", F.leaky_relu(norm(w, f"{name}.norm_1", x, s, codes), 0.2)
        )

    def up(x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2.0, mode="nearest")

    if z is None:
        x = conv(w, "fc", F.interpolate(seg, start, mode="nearest"))
    else:
        x = F.linear(z, w["fc.weight"], w["fc.bias"]).view(len(z), -1, *start)
    x = block("G_middle_0", up(block("head_0", x)))
    x = block("G_middle_1", x if mode == "normal" else up(x))
    for i in range(5 if mode == "most" else 4):
        x = block(f"up_{i}", up(x))
    return torch.tanh(conv(w, "conv_img", F.leaky_relu(x, 0.2)))
