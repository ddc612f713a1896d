"""CA2-SIS: semantic image synthesis with class-adaptive cross-attention."""

from __future__ import annotations

from sisbench.methods.ca2sis.layout import CA2Layout
from sisbench.methods.ca2sis.method import CA2SIS

__all__ = ["CA2SIS", "CA2Layout"]
