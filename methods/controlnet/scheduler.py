"""Schedulers of diffusers, by default DDIM as Stable Diffusion's authors run it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from sisbench.core.errors import UserError
from sisbench.methods.controlnet.library import (
    Config,
    arguments,
    first_line,
    library,
    require_known,
)

DDIM: Mapping[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "clip_sample": False,
    "timestep_spacing": "leading",
}
SCHEDULERS = (
    *("DDIMScheduler", "PNDMScheduler", "DPMSolverMultistepScheduler"),
    *("UniPCMultistepScheduler", "EulerDiscreteScheduler"),
)
"""Schedulers that draw no noise of their own."""


def make_scheduler(config: Config | None, steps: int, eta: float, device: torch.device) -> Any:
    """A scheduler of diffusers, set to ``steps``.

    Args:
        config: changes to ``DDIM``; ``_class_name`` as in diffusers.

    Raises:
        UserError: one that draws noise of its own, unknown keys, steps that it cannot make.
    """
    own = dict(config or {})
    name = own.pop("_class_name", SCHEDULERS[0])
    if name not in SCHEDULERS:
        raise UserError(
            f"controlnet: scheduler {name!r} is none of {', '.join(SCHEDULERS)}",
            "others draw noise that does not belong to the sample",
        )
    if eta > 0 and name != SCHEDULERS[0]:
        raise UserError(f"controlnet: eta is DDIM's, {name} has none", "leave eta at 0")
    if "sde" in str(own.get("algorithm_type", "")):
        raise UserError(f"controlnet: scheduler algorithm_type {own['algorithm_type']} draws noise")
    kind = getattr(library(), name)
    known = arguments(kind)
    require_known("scheduler", own, known)
    defaults = {k: v for k, v in DDIM.items() if k in known}
    try:
        with torch.device("cpu"):
            scheduler = kind(**{**defaults, **own})
            scheduler.set_timesteps(steps, device=device)
    except (ValueError, TypeError, NotImplementedError, IndexError, ZeroDivisionError) as error:
        raise UserError(
            f"controlnet: steps {steps}, scheduler {name}: {first_line(error)}"
        ) from error
    last = scheduler.config.num_train_timesteps - 1
    if int(scheduler.timesteps.max()) > last:
        raise UserError(
            f"controlnet: {steps} steps begin at {int(scheduler.timesteps.max())}, after the last "
            f"one of the training ({last})",
            "take fewer steps, or steps_offset 0",
        )
    return scheduler
