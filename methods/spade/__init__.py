"""SPADE (GauGAN): one global style vector, layouts through spatially adaptive normalisation."""

from __future__ import annotations

from sisbench.methods.spade.method import SPADE

__all__ = ["SPADE"]
