"""Dynamic diffusers: how much the mask and the text say at each pixel and timestep."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SCHEDULES = ("none", "linear_decay", "cosine_decay")


def decay(schedule: str, t: int, timesteps: int = 1000) -> float:
    """Share of its weight that the mask keeps at timestep t: 1 at the start, 0 at the end."""
    if schedule == "linear_decay":
        return t / timesteps
    if schedule == "cosine_decay":
        return (math.cos(math.pi * (1 - t / timesteps)) + 1) / 2
    return 1.0


def mask_weight(
    mask: Tensor, text: Tensor, t: int, schedule: str, factor: float, timesteps: int = 1000
) -> Tensor:
    """Weight of the mask's prediction (CoDiff, section 3.3; the official sampler's defaults add the
    decay and the factor); the text has the rest.

    Args:
        mask, text: influence logits, (B, 1, h, w) each.
        t: timestep.
        schedule: of ``SCHEDULES``.
        factor: the mask's weight is multiplied by it before both are brought to the sum 1.
        timesteps: length of the schedule.

    Returns:
        (B, 1, h, w) in [0, 1].
    """
    weight = torch.sigmoid(mask - text) * decay(schedule, t, timesteps)  # a softmax over the two
    return factor * weight / (1 + (factor - 1) * weight)
