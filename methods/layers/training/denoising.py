"""Denoising training of diffusion models (Ho et al. 2020, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from sisbench.methods.base import draw
from sisbench.methods.layers.diffusion.attention import SpatialTransformer
from sisbench.methods.layers.diffusion.blocks import ResBlock, SPADEResBlock
from sisbench.methods.layers.diffusion.unet import UNet
from sisbench.methods.training import Step

if TYPE_CHECKING:
    from torch.optim import Optimizer


def adamw(
    rate: float, betas: tuple[float, float], decay: float
) -> Callable[[Iterable[nn.Parameter]], Optimizer]:
    """AdamW's constructor for a phase."""
    return lambda parameters: torch.optim.AdamW(parameters, rate, betas, weight_decay=decay)


def drawn_timesteps(step: Step, count: int, like: Tensor) -> Tensor:
    """(B,) int64 uniform in [0, count); noise ``t``."""
    share = step.noise.uniform("t").to(like.device)
    return (share * count).long().clamp_max(count - 1)


def drawn_noise(step: Step, clean: Tensor, name: str = "eps") -> Tensor:
    """Standard normal noise of the shape of ``clean`` (B, D, h, w)."""
    return draw(step.noise, name, *clean.shape, like=clean)


def dropped(step: Step, chance: float, like: Tensor) -> Tensor:
    """(B,) bool, true with probability ``chance`` for each sample; noise ``drop``."""
    return step.noise.uniform("drop").to(like.device) < chance


def noised(clean: Tensor, eps: Tensor, t: Tensor, signal: np.ndarray) -> Tensor:
    """sqrt(a) clean + sqrt(1 - a) eps.

    Args:
        clean, eps: (B, D, h, w).
        t: (B,) timesteps.
        signal: (T,) share of signal left after each timestep.
    """
    a = torch.from_numpy(signal).to(clean)[t][:, None, None, None]
    return a.sqrt() * clean + (1 - a).sqrt() * eps


@torch.no_grad()
def zero_last_layers(unet: UNet) -> None:
    """The last convolution of every residual block and transformer, and of the network, gives 0 at
    the start of training."""
    last: list[nn.Module] = [unet.out[-1]]
    for module in unet.modules():
        if isinstance(module, ResBlock | SPADEResBlock):
            last.append(module.out_layers[-1])
        elif isinstance(module, SpatialTransformer):
            last.append(module.proj_out)
    for layer in last:
        for parameter in layer.parameters():
            parameter.zero_()
