"""CLADE: class-adaptive normalisation (Tan et al., TPAMI 2021)."""

from __future__ import annotations

from sisbench.methods.clade.method import CLADE

__all__ = ["CLADE"]
