"""SEAN: one style code a class, layouts and codes through region-adaptive normalisation."""

from __future__ import annotations

from sisbench.methods.sean.method import SEAN

__all__ = ["SEAN"]
