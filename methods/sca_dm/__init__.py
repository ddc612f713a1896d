"""SCA-DM: latent diffusion with SPADE norms for the layout and class codes for the style."""

from __future__ import annotations

from sisbench.methods.sca_dm.method import SCADM

__all__ = ["SCADM"]
