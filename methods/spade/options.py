"""Construction options of SPADE."""

from __future__ import annotations

from dataclasses import dataclass

from sisbench.methods.layers.global_vae import VaeOptions


@dataclass(frozen=True)
class SpadeOptions(VaeOptions):
    """Those of the frame that SPADE and CLADE share (``VaeOptions``), and:

    Attributes:
        nhidden: width of the mask branches (128 officially).
    """

    nhidden: int = 128
