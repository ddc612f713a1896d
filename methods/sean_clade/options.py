"""Construction options of SEAN-CLADE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sisbench.methods.layers.scam_frame import FIXED, FrameOptions
from sisbench.methods.options import OfficialOptions


@dataclass(frozen=True)
class SeanCladeOptions(FrameOptions):
    """Those of SCAM's frame (``FrameOptions``), and:

    Attributes:
        style_dim: length of a style code.
        encoder_first_filters: width of the style encoder.
        apply_spectral_norm: whether the file's convolutions are spectrally normalised.
        small_h, small_w: size of the first block (only checked: it follows from height and width).
    """

    official: ClassVar = OfficialOptions(
        training=("use_dists",),  # which that repository accepts and never reads
        fixed=FIXED,
    )

    style_dim: int = 512
    encoder_first_filters: int = 32
    apply_spectral_norm: bool = True
    small_h: int | None = None
    small_w: int | None = None

    def __post_init__(self) -> None:
        if min(self.style_dim, self.encoder_first_filters) < 1:
            raise ValueError("style_dim and encoder_first_filters must be positive")
