"""SPADE (GauGAN): spatially adaptive normalisation (Park et al., CVPR 2019)."""

from __future__ import annotations

from sisbench.methods.spade.method import SPADE

__all__ = ["SPADE"]
