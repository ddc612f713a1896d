"""Denoising training of diffusion models (Ho et al. 2020, section 3.2)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sisbench.methods.base import draw
from sisbench.methods.training import Step


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
