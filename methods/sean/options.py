"""Options of SEAN and what its official option files say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sisbench.methods.layers.spade import NormKind
from sisbench.methods.options import GAN_TRAINING, OfficialOptions


@dataclass(frozen=True)
class SeanOptions:
    """Construction options; None takes the official value of the label space.

    Attributes:
        label_nc, contain_dontcare_label, no_instance, semantic_nc: channels of the label map;
            SEAN takes no instance maps.
        ngf, nhidden: width factor of the generator; width of the mask branches.
        max_channels: bound on the generator's widths, for small networks (none officially).
        crop_size, aspect_ratio: width of the picture; width / height.
        num_upsampling_layers: normal or more.
        style_length: length of a style code.
        num_fc_mu: per-class linear layers; officially 19, more if there are more classes.
        style_encoder_ngf: width of the style encoder.
        norm_G: norm string of the official code.
    """

    official: ClassVar = OfficialOptions(training=GAN_TRAINING)

    label_nc: int | None = None
    contain_dontcare_label: bool | None = None
    no_instance: bool = True
    semantic_nc: int | None = None
    ngf: int = 64
    max_channels: int | None = None
    nhidden: int = 128
    crop_size: int = 256
    aspect_ratio: float = 1.0
    num_upsampling_layers: str = "normal"
    style_length: int = 512
    num_fc_mu: int | None = None
    style_encoder_ngf: int = 32
    norm_G: str = "spectralspadesyncbatch3x3"

    def __post_init__(self) -> None:
        if NormKind.parse(self.norm_G).kernel != 3:
            raise ValueError("norm_G must end in 3x3, the size of SEAN's style convolutions")
        if not self.no_instance:
            raise ValueError(
                "no_instance must be true: an edge channel of instances would be a style region"
            )
        if self.num_upsampling_layers not in ("normal", "more"):
            raise ValueError(
                "num_upsampling_layers must be normal or more ('most' fails officially)"
            )
