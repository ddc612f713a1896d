"""Collaborative Diffusion: a latent diffusion model driven by a mask, or by mask and text."""

from __future__ import annotations

from sisbench.methods.codiff.method import CoDiff

__all__ = ["CoDiff"]
