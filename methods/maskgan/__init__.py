"""MaskGAN: a face from its label map, in the style of a (photograph, label map) pair."""

from __future__ import annotations

from sisbench.methods.maskgan.method import MaskGAN

__all__ = ["MaskGAN"]
