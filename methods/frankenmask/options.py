"""Options of FrankenMask and what its official option files say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sisbench.methods.options import OfficialOptions


@dataclass(frozen=True)
class FrankenMaskOptions:
    """Construction options.

    Attributes:
        nc: classes without the background; None takes them from the label space.
        ndf, ngf: width factors of encoder and decoder.
        latent: numbers a class code has.
        heads, layers: of the transformer over the codes.
        absent: ``exact`` gives a class that a label map lacks the code of an empty map in exact
            arithmetic, the bias of the last layer [ours]; ``as_computed`` encodes the empty map, as
            the official code does: amplified rounding noise.
    """

    official: ClassVar = OfficialOptions(fixed={"size": 256})

    nc: int | None = None
    ndf: int = 32
    ngf: int = 32
    latent: int = 512
    heads: int = 8
    layers: int = 6
    absent: str = "exact"

    def __post_init__(self) -> None:
        if min(self.ndf, self.ngf, self.latent, self.heads, self.layers) < 1:
            raise ValueError("ndf, ngf, latent, heads and layers must be positive")
        if self.latent % self.heads:
            raise ValueError(f"latent {self.latent} must be a multiple of heads {self.heads}")
        if self.absent not in ("exact", "as_computed"):
            raise ValueError(f"absent must be exact or as_computed, got {self.absent!r}")
