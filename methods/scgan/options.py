"""Options of SC-GAN and what its official option files say."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from sisbench.methods.options import GAN_TRAINING, OfficialOptions

_NORM_G = r"(spectral)?scc(syncbatch|batch|instance)3x3"


@dataclass(frozen=True)
class ScganOptions:
    """Construction options; None takes the official value of the label space.

    Attributes:
        label_nc, contain_dontcare_label, semantic_nc: channels of the label map.
        labels: as_is, or shifted: value v is class v - 1 and 0 the last one (CelebAMask-HQ's
            loader).
        crop_size, aspect_ratio: width of the picture; width / height.
        ngf, nff, nrf, nef: width factors of generator, its start, routing network and encoder (as
            the generator's).
        use_vae, z_dim: image encoder and length of its vector.
        num_experts_conv, num_experts_norm: experts that are mixed.
        temperature: factor of the logits before the softmax over the experts.
        position, pyr_pos, pyr_rng: whether the layout is blurred, at every level of its pyramid
            rather than once, and down to which.
        ig_sz, ig_sigma, ig_iter, ig_relative: window, width and repetitions of the blur.
        no_spectral_on_routing: whether the routing network goes without spectral norm.
        norm_G, norm_E: norm strings of the official code.
    """

    official: ClassVar = OfficialOptions(
        training=(*GAN_TRAINING, "netD"),
        fixed={
            "no_instance": True,
            "weight_type": "softmax",
            "num_upsampling_layers": "normal",
        },
    )

    label_nc: int | None = None
    contain_dontcare_label: bool | None = None
    semantic_nc: int | None = None
    labels: str | None = None
    crop_size: int | None = None
    aspect_ratio: float = 1.0
    ngf: int | None = None
    nff: int = 32
    nrf: int = 32
    nef: int | None = None
    use_vae: bool | None = None
    z_dim: int = 256
    num_experts_conv: int = 3
    num_experts_norm: int | None = None
    temperature: float = 0.05
    position: bool | None = None
    pyr_pos: bool | None = None
    pyr_rng: int | None = None
    ig_sz: int = 7
    ig_sigma: float = 1.5
    ig_iter: int = 1
    ig_relative: bool = False
    no_spectral_on_routing: bool | None = None
    norm_G: str = "spectralsccsyncbatch3x3"
    norm_E: str = "spectralinstance"

    def __post_init__(self) -> None:
        if re.fullmatch(_NORM_G, self.norm_G) is None:
            raise ValueError(
                f"norm_G: '{self.norm_G}' is unknown; write "
                "[spectral]scc<syncbatch|batch|instance>3x3"
            )
        if self.norm_E not in ("spectralinstance", "instance"):
            raise ValueError(f"norm_E must be spectralinstance or instance, got {self.norm_E!r}")
        if self.labels not in (None, "as_is", "shifted"):
            raise ValueError(f"labels must be as_is or shifted, got {self.labels!r}")
        if self.ig_sz % 2 == 0 or self.ig_sz < 1 or self.ig_iter < 1 or self.ig_sigma <= 0:
            raise ValueError("the blur needs an odd ig_sz, a positive ig_sigma and ig_iter from 1")

    @property
    def spectral(self) -> bool:
        """Whether the experts are spectrally normalised in the file."""
        return self.norm_G.startswith("spectral")

    @property
    def norm(self) -> str:
        """syncbatch, batch or instance."""
        found = re.fullmatch(_NORM_G, self.norm_G)
        assert found is not None
        return found[2]
