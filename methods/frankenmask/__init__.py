"""FrankenMask: parts of face label maps exchanged, and the whole map redrawn by a transformer."""

from __future__ import annotations

from sisbench.methods.frankenmask.method import FrankenMask

__all__ = ["FrankenMask"]
