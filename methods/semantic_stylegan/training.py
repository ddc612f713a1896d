"""SemanticStyleGAN's training: pictures with segmentations against photographs with label maps (Shi
et al. 2022, section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from sisbench.core.errors import UserError
from sisbench.core.label_space import HOLE
from sisbench.methods.base import draw
from sisbench.methods.layers.labels import one_hot
from sisbench.methods.layers.training.adversarial import adam
from sisbench.methods.options import require_not_negative, require_positive
from sisbench.methods.semantic_stylegan.discriminator import (
    GROUP,
    Discriminator,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    mask_loss,
)
from sisbench.methods.training import Losses, Phase, Step, Training

if TYPE_CHECKING:
    from sisbench.core.batch import Batch
    from sisbench.methods.semantic_stylegan.method import SemanticStyleGAN
    from sisbench.methods.semantic_stylegan.network import Generator, Rows

PATH_DECAY = 0.01
"""Share of the present lengths in the running mean."""


@dataclass(frozen=True)
class SemanticStyleGANTrainingOptions:
    """Losses, discriminator and optimisers; the defaults are the official ones.

    Attributes:
        mask: weight of the difference between composited and rendered segmentation; 0 when a
            network is adapted to a domain without label maps.
        path, path_every: weight of the path length penalty; updates from one to the next, by which
            it is multiplied.
        r1_image, r1_segmentation, r1_every: weights of half the squared gradients at photographs
            and label maps; updates from one to the next, by which they are multiplied.
        mixing: probability that an update mixes two codes a sample.
        lr_g, lr_d: learning rates.
        betas_g, betas_d: Adam's.
    """

    mask: float = 100.0
    path: float = 0.5
    path_every: int = 4
    r1_image: float = 10.0
    r1_segmentation: float = 1000.0
    r1_every: int = 16
    mixing: float = 0.3
    lr_g: float = 0.002 * 4 / 5
    lr_d: float = 0.002 * 16 / 17
    betas_g: tuple[float, float] = (0.0, 0.99 ** (4 / 5))
    betas_d: tuple[float, float] = (0.0, 0.99 ** (16 / 17))

    def __post_init__(self) -> None:
        require_positive(self, "path_every", "r1_every", "lr_g", "lr_d")
        require_not_negative(self, "mask", "path", "r1_image", "r1_segmentation")
        if not 0 <= self.mixing <= 1:
            raise ValueError(f"mixing must be within 0..1, got {self.mixing}")


class PathMean(nn.Module):
    """The running mean of path lengths, which a training that goes on needs."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))


class SemanticStyleGANTraining(Training):
    """Logistic loss, mask loss and path length; R1 on photographs and label maps."""

    Options: ClassVar[type] = SemanticStyleGANTrainingOptions
    options: SemanticStyleGANTrainingOptions
    method: SemanticStyleGAN

    def setup(self) -> None:
        """The discriminator; the generator's weights follow their parameters again."""
        o = self.method.options
        self.discriminator = Discriminator(o.size, o.seg_dim, o.channel_multiplier)
        self.path = PathMean()
        self.generator.render.unfold()

    @property
    def generator(self) -> Generator:
        """The generator."""
        return self.method.net.g_ema

    def networks(self) -> Mapping[str, nn.Module]:
        """Generator, discriminator and the state of the path length penalty."""
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "path": self.path,
        }

    def phases(self) -> tuple[Phase, ...]:
        """Generator, then discriminator; a penalty is part of its update."""
        o = self.options
        g, d = adam(o.lr_g, o.betas_g), adam(o.lr_d, o.betas_d)
        return (
            Phase("generator", ("generator", "path"), g, self.generator_losses),
            Phase("discriminator", ("discriminator",), d, self.critic_losses),
        )

    def weight(self, loss: str) -> float:
        """A penalty counts for the updates until its next."""
        o = self.options
        if loss == "path":
            return o.path * o.path_every
        if loss.startswith("r1_"):
            return super().weight(loss) / 2 * o.r1_every
        return super().weight(loss)

    # ---- losses -----------------------------------------------------------------------------

    def generator_losses(self, step: Step) -> Losses:
        """Realism, agreement of both segmentations and, at its updates, the path length."""
        o = self.options
        image, seg, coarse = self.generator(self.rows(step), self.noises(step))
        losses = {"gan": generator_loss(self.judge(image, seg))}
        if o.mask:
            losses["mask"] = mask_loss(coarse, seg)
        if o.path and step.index % o.path_every == 0:
            losses["path"] = self.path_loss(step)
        return losses

    def critic_losses(self, step: Step) -> Losses:
        """Logistic loss on pictures that are drawn anew and, at its updates, R1."""
        o = self.options
        with torch.no_grad():
            fake = self.generator(self.rows(step), self.noises(step))[:2]
        image, seg = step.batch.image, self.segmentation(step.batch)
        wanted = step.index % o.r1_every == 0 and bool(o.r1_image or o.r1_segmentation)
        image, seg = (x.detach().requires_grad_(wanted) for x in (image, seg))
        real = self.judge(image, seg)
        losses = {"critic": discriminator_loss(real, self.judge(*fake))}
        if wanted:
            losses["r1_image"] = gradient_penalty(real, image)
            losses["r1_segmentation"] = gradient_penalty(real, seg)
        return losses

    def path_loss(self, step: Step) -> Tensor:
        """Squared distance of the path lengths of half the batch from their running mean, which
        moves first and counts as a constant (Karras et al. 2020, section 3.2)."""
        count = max(1, len(step.batch) // 2)
        rows = self.generator.expand(self.rows(step, "path_")[:count])
        noises = [maps[:count] for maps in self.noises(step, "path_")]
        image = self.generator(rows, noises)[0]
        weights = draw(step.noise, "path", len(step.batch), *image.shape[1:], like=image)[:count]
        lengths = path_lengths(image, rows, weights)
        return (lengths - self.moved_mean(lengths)).square().mean()

    def moved_mean(self, lengths: Tensor) -> Tensor:
        """The running mean after these lengths (B,), without gradient."""
        self.path.mean.lerp_(lengths.detach().mean(), PATH_DECAY)
        return self.path.mean.clone()

    def judge(self, image: Tensor, segmentation: Tensor) -> Tensor:
        """Logits (B, 1).

        Raises:
            UserError: the discriminator compares samples in groups that do not divide the batch.
        """
        count = len(image)
        if count % min(count, GROUP):
            raise UserError(
                f"semantic-stylegan: the discriminator compares samples in groups of {GROUP}; "
                f"{count} do not make whole groups",
                f"take {GROUP} or fewer, or a multiple, a micro-batch and device",
            )
        logits: Tensor = self.discriminator(image, segmentation)
        return logits

    # ---- what is drawn ------------------------------------------------------------------------

    def rows(self, step: Step, prefix: str = "") -> Tensor:
        """W+ (B, rows, D): one code a sample or, with probability ``mixing``, a mixture of two."""
        batch, o, index = step.batch, self.method.options, self.generator.rows
        first, second = (
            self.generator.style(
                draw(step.noise, prefix + name, len(batch), o.style_dim, like=batch.image)
            )
            for name in ("z", "z2")
        )
        shares = step.noise.uniform(f"{prefix}parts", o.seg_dim).to(first.device)
        mixed = float(step.noise.shared(f"{prefix}mixing", 1)) < self.options.mixing
        parts = (3 * shares).long().clamp_max(2) if mixed else torch.zeros_like(shares).long()
        return mixed_rows(first, second, parts, index)

    def noises(self, step: Step, prefix: str = "") -> list[Tensor]:
        """A drawn map (B, 1, h, w) for each render layer."""
        like, count = step.batch.image, len(step.batch)
        return [
            draw(step.noise, f"{prefix}noise_{i}", count, 1, s, s, like=like)
            for i, s in enumerate(self.generator.render.noise_sizes)
        ]

    def segmentation(self, batch: Batch) -> Tensor:
        """(B, generators, H, W): 1 for the generator of a pixel's class, -1 for all others."""
        groups = torch.tensor(self.method.groups, device=batch.label.device)
        label = torch.where(batch.label < 0, HOLE, groups[batch.label.clamp_min(0)])
        return 2 * one_hot(label, self.method.options.seg_dim, batch.image.dtype) - 1


def path_lengths(image: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """How far the picture moves with its codes: the root of the mean over rows of the squared
    gradient of a randomly weighted picture.

    Args:
        image: (B, 3, H, W), computed from ``rows``.
        rows: (B, R, D) expanded codes.
        weights: (B, 3, H, W) standard normal.

    Returns:
        (B,)
    """
    total = (image * weights).sum() / math.sqrt(image.shape[2] * image.shape[3])
    (gradient,) = torch.autograd.grad(total, rows, create_graph=True)
    return gradient.square().sum(2).mean(1).sqrt()


def mixed_rows(first: Tensor, second: Tensor, parts: Tensor, rows: Rows) -> Tensor:
    """W+ of two codes; the base rows are the first's.

    Args:
        first, second: (B, D).
        parts: (B, K) int64 for each generator: 0 shape and texture of the first, 1 texture of the
            second, 2 both of the second.
        rows: their meaning.

    Returns:
        (B, rows, D)
    """
    shape, texture = parts == 2, parts >= 1
    theirs = torch.stack([shape, texture], 2).flatten(1)  # (B, K, 2) -> (B, 2K)
    base = theirs.new_zeros(len(theirs), rows.base_layers)
    return torch.where(torch.cat([base, theirs], 1)[..., None], second[:, None], first[:, None])
