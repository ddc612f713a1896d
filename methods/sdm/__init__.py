"""SDM: diffusion in pixel space, the label map in the norms of the decoder."""

from __future__ import annotations

from sisbench.methods.sdm.method import SDM

__all__ = ["SDM"]
