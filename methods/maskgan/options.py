"""Options of MaskGAN."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MaskganOptions:
    """Construction options.

    Attributes:
        label_nc: classes; None takes the label space's.
        output_nc: 3.
        ngf: width factor of the generator.
        netG, norm: global and instance, as published.
        n_downsample_global, n_blocks_global: halvings, and residual blocks at the smallest size.
        size: (H, W) of the picture, or one side of a square; multiples of 2**n_downsample_global.
        demo_labels: read label maps as the published demo does, which turns 7, 13, 14 and 15 into
            the class before; for parity with it alone.
        B_ngf: width factor of the blender.
        vae_ngf, vae_latent: width factor and latent of the MaskVAE.
        ndf, num_D, n_layers_D: of the discriminator; they change no image.
    """

    label_nc: int | None = None
    output_nc: int = 3
    ngf: int = 64
    netG: str = "global"
    norm: str = "instance"
    n_downsample_global: int = 4
    n_blocks_global: int = 4
    size: tuple[int, int] = (512, 512)
    demo_labels: bool = False
    B_ngf: int = 32
    vae_ngf: int = 32
    vae_latent: int = 1024
    ndf: int = 64
    num_D: int = 2
    n_layers_D: int = 3

    def __post_init__(self) -> None:
        if isinstance(self.size, int):
            object.__setattr__(self, "size", (self.size, self.size))
        if self.netG != "global" or self.norm != "instance" or self.output_nc != 3:
            raise ValueError("netG must be global, norm instance and output_nc 3, as published")
        if min(self.ngf, self.n_blocks_global, self.n_downsample_global, self.B_ngf) < 1:
            raise ValueError("ngf, B_ngf, n_blocks_global and n_downsample_global must be positive")
        step = 2**self.n_downsample_global
        if len(self.size) != 2 or any(s < 32 or s % step for s in self.size):
            raise ValueError(f"size must be two multiples of {step} from 32 on, got {self.size}")
