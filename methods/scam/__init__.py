"""SCAM: semantically conditioned attention modulation (Dufour et al., ECCV 2022)."""

from __future__ import annotations

from sisbench.methods.scam.method import SCAM

__all__ = ["SCAM"]
