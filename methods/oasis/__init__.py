"""OASIS: photographs from a label map and 3D noise, trained by a segmenting discriminator."""

from __future__ import annotations

from sisbench.methods.oasis.method import OASIS

__all__ = ["OASIS"]
