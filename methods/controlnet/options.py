"""Options of ControlNet, by our names and by those of diffusers' calls."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sisbench.methods.options import OfficialOptions

PARTS = ("unet", "controlnet", "vae", "text_encoder")
"""The networks, by the names of their folders."""
SECTIONS = (*PARTS, "scheduler")
"""Options that hold a configuration of diffusers."""


@dataclass(frozen=True)
class ControlNetOptions:
    """What is drawn and how; the networks are those of the folders.

    ``num_inference_steps``, ``guidance_scale`` and ``controlnet_conditioning_scale``, as diffusers
    calls them, are taken as well.

    Attributes:
        base: folder of the base model (Stable Diffusion in diffusers' layout), where ``weights`` is
            a ControlNet's folder alone.
        prompt, negative_prompt: one text for the whole data set; none by default.
        palette: colours of the label values: "ade20k", "space" (the label space's own) or a file
            with one RGB triple for each; None takes ADE20K's for ADE20K.
        steps: of the scheduler.
        guidance: s in uncond + s (cond - uncond), where the two prompts differ; up to 1 one pass.
        strength: factor of the ControlNet's residuals.
        eta: of DDIM: 0 draws no noise after the start.
        size: (H, W) of the images, or one side; None: the resolution, at most 256.
        resolution: (H, W) that the networks draw, reduced to ``size`` by antialiased bilinear
            interpolation; None: the shape of ``size``, its short side the base model's own (512).
        tokenizer: folder of the tokenizer; None takes the base model's.
        unet, controlnet, vae, text_encoder: configurations for networks that are not read from
            folders; None: Stable Diffusion 1.5's, and a ControlNet that copies the UNet's.
        scheduler: changes to the scheduler, by diffusers' names; ``_class_name`` names another one
            than DDIMScheduler.
    """

    official: ClassVar = OfficialOptions(
        fixed={"guess_mode": False, "safety_checker": None, "requires_safety_checker": False},
        aliases={
            "num_inference_steps": "steps",
            "ddim_steps": "steps",
            "guidance_scale": "guidance",
            "controlnet_conditioning_scale": "strength",
        },
    )

    base: str | None = None
    prompt: str = ""
    negative_prompt: str = ""
    palette: str | None = None
    steps: int = 50
    guidance: float = 9.0
    strength: float = 1.0
    eta: float = 0.0
    size: int | tuple[int, int] | None = None
    resolution: int | tuple[int, int] | None = None
    tokenizer: str | None = None
    unet: Mapping[str, Any] | None = None
    controlnet: Mapping[str, Any] | None = None
    vae: Mapping[str, Any] | None = None
    text_encoder: Mapping[str, Any] | None = None
    scheduler: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if self.strength < 0:
            raise ValueError(f"strength must not be negative, got {self.strength}")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must be within 0..1, got {self.eta}")
        for name in ("size", "resolution"):
            if any(side < 1 for side in pair(getattr(self, name)) or ()):
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in SECTIONS:  # plain lists and numbers, so that a weights file gives them back
            plain = json.loads(json.dumps(getattr(self, name)))
            object.__setattr__(self, name, plain)

    @property
    def two_passes(self) -> bool:
        """Whether guidance changes anything: equal prompts give equal predictions."""
        return self.guidance > 1 and self.prompt != self.negative_prompt


def pair(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    """One side or two as (H, W)."""
    return (size, size) if isinstance(size, int) else size
