"""Options of SPADE and what its official option files say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sisbench.methods.layers.spade import UPSAMPLINGS, NormKind
from sisbench.methods.options import GAN_TRAINING, OfficialOptions

OFFICIAL_ENCODER = 256
"""Side of the photographs that the official encoder reads."""


@dataclass(frozen=True)
class SpadeOptions:
    """Construction options; None takes the official value of the label space.

    Attributes:
        label_nc, contain_dontcare_label, no_instance, semantic_nc: channels of the label map.
        ngf, nef, nhidden: width factors of generator and encoder; width of the mask branches.
        max_channels: bound on the generator's widths, for small networks (none officially).
        crop_size, aspect_ratio: width of the picture; width / height.
        num_upsampling_layers: normal, more or most.
        use_vae, z_dim: image encoder and length of its vector.
        encoder_size: side that photographs are brought to for the encoder (256 officially).
        norm_G, norm_E: norm strings of the official code.
        ade_labels: ADE20K values as the released code feeds them (as_is), or as it meant to
            (shifted: 0 becomes the last class).
    """

    official: ClassVar = OfficialOptions(training=GAN_TRAINING)

    label_nc: int | None = None
    contain_dontcare_label: bool | None = None
    no_instance: bool | None = None
    semantic_nc: int | None = None
    ngf: int = 64
    max_channels: int | None = None
    nef: int = 64
    nhidden: int = 128
    crop_size: int | None = None
    aspect_ratio: float | None = None
    num_upsampling_layers: str | None = None
    use_vae: bool = True
    z_dim: int = 256
    encoder_size: int = OFFICIAL_ENCODER
    norm_G: str = "spectralspadesyncbatch3x3"
    norm_E: str = "spectralinstance"
    ade_labels: str = "as_is"

    def __post_init__(self) -> None:
        NormKind.parse(self.norm_G)
        if self.norm_E not in ("spectralinstance", "instance"):
            raise ValueError(f"norm_E must be spectralinstance or instance, got {self.norm_E!r}")
        if self.num_upsampling_layers not in (None, *UPSAMPLINGS):
            raise ValueError(f"num_upsampling_layers must be one of {', '.join(UPSAMPLINGS)}")
        if self.ade_labels not in ("as_is", "shifted"):
            raise ValueError(f"ade_labels must be as_is or shifted, got {self.ade_labels!r}")
        if self.encoder_size < 8 or self.encoder_size & (self.encoder_size - 1):
            raise ValueError(f"encoder_size must be a power of two from 8 on: {self.encoder_size}")
