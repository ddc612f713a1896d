"""Options of MaskGAN and what its official option files say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from sisbench.methods.options import GAN_TRAINING, OfficialOptions


def _both_sides(size: Any) -> dict[str, Any]:
    """(H, W), or one side of a square."""
    return {"size": (size, size) if isinstance(size, int) else size}


def _mask_vae(arguments: Any) -> dict[str, Any]:
    """Classes, two equal width factors and the latent of the MaskVAE."""
    _, ngf, ndf, latent = arguments
    if ngf != ndf:
        raise ValueError(f"the two widths must be equal, got {ngf} and {ndf}")
    return {"vae_ngf": ngf, "vae_latent": latent}


@dataclass(frozen=True)
class MaskganOptions:
    """Construction options.

    Attributes:
        label_nc: classes; None takes the label space's.
        ngf: width factor of the generator.
        n_downsample_global, n_blocks_global: halvings, and residual blocks at the smallest size.
        size: (H, W) of the picture, or one side of a square; multiples of 2**n_downsample_global.
        demo_labels: read label maps as the published demo does, which turns 7, 13, 14 and 15 into
            the class before; for parity with it alone.
        B_ngf: width factor of the blender.
        vae_ngf, vae_latent: width factor and latent of the MaskVAE.
    """

    official: ClassVar = OfficialOptions(
        training=GAN_TRAINING,
        fixed={
            "netG": "global",
            "norm": "instance",
            "output_nc": 3,
            "B_n_downsampling": 3,
            "B_n_blocks": 3,
        },
        convert={"size": _both_sides, "VAE": _mask_vae},
    )

    label_nc: int | None = None
    ngf: int = 64
    n_downsample_global: int = 4
    n_blocks_global: int = 4
    size: tuple[int, int] = (512, 512)
    demo_labels: bool = False
    B_ngf: int = 32
    vae_ngf: int = 32
    vae_latent: int = 1024

    def __post_init__(self) -> None:
        for name in (
            *("ngf", "n_blocks_global", "n_downsample_global"),
            *("B_ngf", "vae_ngf", "vae_latent"),
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        step = 2**self.n_downsample_global
        if len(self.size) != 2 or any(s < 32 or s % step for s in self.size):
            raise ValueError(f"size must be two multiples of {step} from 32 on, got {self.size}")
