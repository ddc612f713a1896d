"""Construction options of CLADE."""

from __future__ import annotations

from dataclasses import dataclass

from sisbench.methods.layers.global_vae import VaeOptions
from sisbench.methods.layers.spade import NormKind


@dataclass(frozen=True)
class CladeOptions(VaeOptions):
    """Those of SPADE's frame (``VaeOptions``), and:

    Attributes:
        norm_mode: must be clade; the official code's other mode is the method ``spade``.
        add_dist: the intra-class position encoding (ICPE).
        norm_dist: whether positions are divided by the region's extent, as for released weights.
        use_dists: accepted by SCAM's repository (variant scam) and without effect there.
    """

    norm_mode: str = "clade"
    add_dist: bool = False
    norm_dist: bool = True
    use_dists: bool = False

    def __post_init__(self) -> None:
        if self.norm_mode != "clade":
            raise ValueError("norm_mode must be clade; for spade create the method 'spade'")
        if NormKind.parse(self.norm_G).norm == "instance":
            raise ValueError("norm_G must name a batch norm (batch or syncbatch)")
        super().__post_init__()
