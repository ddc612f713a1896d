"""Construction options of SEAN-CLADE."""

from __future__ import annotations

from dataclasses import dataclass

from sisbench.methods.layers.scam_frame import FrameOptions


@dataclass(frozen=True)
class SeanCladeOptions(FrameOptions):
    """Those of SCAM's frame (``FrameOptions``), and:

    Attributes:
        style_dim: length of a style code.
        encoder_first_filters: width of the style encoder.
        apply_spectral_norm: whether the file's convolutions are spectrally normalised.
        use_dists: accepted and without effect, as in that repository.
        small_h, small_w: size of the first block (only checked: it follows from height and width).
    """

    style_dim: int = 512
    encoder_first_filters: int = 32
    apply_spectral_norm: bool = True
    use_dists: bool = False
    small_h: int | None = None
    small_w: int | None = None

    def __post_init__(self) -> None:
        if min(self.style_dim, self.encoder_first_filters) < 1:
            raise ValueError("style_dim and encoder_first_filters must be positive")
