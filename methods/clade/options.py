"""Construction options of CLADE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sisbench.methods.layers.global_vae import VaeOptions
from sisbench.methods.layers.scam_frame import FIXED, recognise_frame
from sisbench.methods.layers.spade import NormKind
from sisbench.methods.options import GAN_TRAINING, OfficialOptions


@dataclass(frozen=True)
class CladeOptions(VaeOptions):
    """Those of SPADE's frame (``VaeOptions``), and:

    Attributes:
        add_dist: the intra-class position encoding (ICPE).
        norm_dist: whether positions are divided by the region's extent, as for released weights.
    """

    official: ClassVar = OfficialOptions(
        training=(*GAN_TRAINING, "use_dists"),  # which SCAM's repository accepts and never reads
        fixed={**FIXED, "norm_mode": "clade"},
        finish=recognise_frame,
    )

    add_dist: bool = False
    norm_dist: bool = True

    def __post_init__(self) -> None:
        if NormKind.parse(self.norm_G).norm == "instance":
            raise ValueError("norm_G must name a batch norm (batch or syncbatch)")
        super().__post_init__()
