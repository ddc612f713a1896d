"""SEAN-CLADE: SEAN's styles over CLADE's tables, as SCAM's repository has it."""

from __future__ import annotations

from sisbench.methods.sean_clade.method import SEANCLADE

__all__ = ["SEANCLADE"]
