"""INADE and V-INADE: instance-adaptive normalisation (Tan et al., CVPR 2021)."""

from __future__ import annotations

from sisbench.methods.inade.method import INADE, VINADE

__all__ = ["INADE", "VINADE"]
