"""Options of Semantic-VAE and what its official option files say."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from sisbench.methods.options import OfficialOptions


@dataclass(frozen=True)
class SemanticVAEOptions:
    """Construction options; the defaults are the row "ours" of the paper's Table 1.

    Attributes:
        classes: classes without the background; None takes them from the label space.
        latent: numbers a latent has, a square; label maps of side 16 * sqrt(latent) come out.
        resolution: that side, stated once more.
        mask_size: side that label maps are reduced to before they are encoded.
        lstm_layers, bidirectional: of the LSTM over the classes. With False, and without LSTM, the
            published code crashes; latents then pass the feed-forward part by as they are [ours].
        no_LSTM: ablation without LSTM.
        hidden: width of the encoder's first layer and of the feed-forward part, even [ours].
        channels: the decoder's at its start, a multiple of 16 [ours].
        do_perm: ablation with the first two classes exchanged in the sequence, not restored.
    """

    official: ClassVar = OfficialOptions(
        # the transformer in place of the LSTM never ran; the background has no latent
        fixed={"no_T": True, "exclude_bg": True},
        aliases={"lstm_num": "lstm_layers", "bidir": "bidirectional"},
    )

    classes: int | None = None
    latent: int = 256
    resolution: int | None = None
    mask_size: int = 128
    lstm_layers: int = 3
    bidirectional: bool = True
    no_LSTM: bool = False
    do_perm: bool = False
    hidden: int = 1024
    channels: int = 512

    def __post_init__(self) -> None:
        side = math.isqrt(max(self.latent, 0))
        if side < 1 or side * side != self.latent:
            raise ValueError(f"latent must be a square, as 256, got {self.latent}")
        if self.resolution not in (None, 16 * side):
            raise ValueError(
                f"resolution must be {16 * side}, the side of what latent {self.latent} draws"
            )
        if self.mask_size < 1 or self.lstm_layers < 1:
            raise ValueError("mask_size and lstm_layers must be at least 1")
        if self.hidden < 2 or self.hidden % 2:
            raise ValueError(f"hidden must be even, got {self.hidden}")
        if self.channels < 16 or self.channels % 16:
            raise ValueError(f"channels must be a multiple of 16, got {self.channels}")
