"""SC-GAN: convolutions and normalisations mixed per pixel by semantic vectors of the layout."""

from __future__ import annotations

from sisbench.methods.scgan.method import SCGAN

__all__ = ["SCGAN"]
