"""ControlNet over diffusers: Stable Diffusion that is steered by a coloured label map."""

from __future__ import annotations

from sisbench.methods.controlnet.method import ControlNet

__all__ = ["ControlNet"]
