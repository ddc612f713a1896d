"""Options of SemanticStyleGAN and the official values of its CelebAMask-HQ network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sisbench.methods.options import OfficialOptions


def _power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


@dataclass(frozen=True)
class SemanticStyleGANOptions:
    """Construction options; the network's are those of ``CelebAMask-HQ-512x512.pt``.

    Attributes:
        size: width and height that the network draws.
        style_dim, n_mlp: length of a latent code; layers of the mapping network.
        seg_dim: local generators.
        groups: the generator of each class of the label space; officially 19 classes on 13.
        local_layers, base_layers, depth_layers: layers of a local generator; of these, those of the
            shared base codes, and those before the depth.
        local_channel, coarse_channel: widths of a local generator and of its features.
        coarse_size, min_feat_size: size of the local generators' grid; where rendering starts.
        channel_multiplier: width of the render network from size 64 on.
        residual_refine: whether the segmentation adds to the composited one.
        detach_texture: whether gradients of textures stop before the shapes' layers.
        transparent_dims: generators that are laid over the others.
        truncation: how far sampled codes keep from the mean latent; 1 leaves them.
        randomize_noise: noise maps drawn per sample, in place of the checkpoint's own.
        steps, lr: steps of an inversion; its greatest learning rate.
        lambda_lpips, lambda_mse, lambda_mean, noise_regularize: weights of its losses.
        w_plus: whether an inversion finds a code for each row, or one for all.
        no_noises: whether an inversion leaves the noise maps as they are.
        finetune_steps: steps of pivotal tuning, which act on reconstructions alone.
        mean_latent_draws, mean_latent_seed: the mean latent is that of so many seeded draws.
        lpips_trunk: torchvision's VGG16 for the LPIPS loss; by default ``lpips-vgg`` of the
            registered weights.
        keep_inversions: whether inversions are kept in the cache folder.
    """

    official: ClassVar = OfficialOptions(
        aliases={
            "latent": "style_dim",
            "step": "steps",
            "finetune_step": "finetune_steps",
            "truncation_mean": "mean_latent_draws",
        },
    )

    size: int = 512
    style_dim: int = 512
    n_mlp: int = 8
    seg_dim: int = 13
    groups: tuple[int, ...] | None = None
    local_layers: int = 10
    base_layers: int = 2
    depth_layers: int = 6
    local_channel: int = 64
    coarse_channel: int = 512
    coarse_size: int = 64
    min_feat_size: int = 16
    channel_multiplier: int = 2
    residual_refine: bool = True
    detach_texture: bool = False
    transparent_dims: tuple[int, ...] = (10, 12)
    truncation: float = 0.7
    randomize_noise: bool = False
    steps: int = 400
    lr: float = 0.1
    lambda_lpips: float = 1.0
    lambda_mse: float = 0.1
    lambda_mean: float = 1.0
    noise_regularize: float = 10.0
    w_plus: bool = True
    no_noises: bool = True
    finetune_steps: int = 0
    mean_latent_draws: int = 10_000
    mean_latent_seed: int = 0
    lpips_trunk: str | None = None
    keep_inversions: bool = True

    def __post_init__(self) -> None:
        sizes = (self.min_feat_size, self.coarse_size, self.size)
        if not all(map(_power_of_two, sizes)) or not sizes[0] < sizes[1] < sizes[2] <= 1024:
            raise ValueError(
                "min_feat_size < coarse_size < size must be powers of two up to 1024, got "
                f"{', '.join(map(str, sizes))}"
            )
        if sizes[0] < 4:
            raise ValueError(f"min_feat_size must be 4 or more, got {self.min_feat_size}")
        if not 0 <= self.base_layers <= self.depth_layers <= self.local_layers:
            raise ValueError(
                "0 <= base_layers <= depth_layers <= local_layers must hold, got "
                f"{self.base_layers}, {self.depth_layers}, {self.local_layers}"
            )
        for name in ("style_dim", "n_mlp", "depth_layers", "channel_multiplier", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("local_channel", "coarse_channel", "mean_latent_draws"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.seg_dim < 2:
            raise ValueError(f"seg_dim must be 2 or more, got {self.seg_dim}")
        if self.finetune_steps < 0:
            raise ValueError(f"finetune_steps must not be negative, got {self.finetune_steps}")
        if not set(self.transparent_dims) <= set(range(self.seg_dim)):
            raise ValueError(
                f"transparent_dims {self.transparent_dims} are not among the {self.seg_dim} "
                "generators of seg_dim"
            )

    @property
    def rows(self) -> int:
        """Rows of W+: base rows, then shape and texture of each generator."""
        return self.base_layers + 2 * self.seg_dim
