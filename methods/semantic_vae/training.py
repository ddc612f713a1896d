"""Semantic-VAE's training: label maps reconstructed from latents that are drawn to the prior."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sisbench.core.errors import UserError
from sisbench.core.label_space import HOLE
from sisbench.methods.base import draw
from sisbench.methods.layers.labels import one_hot
from sisbench.methods.layers.training.adversarial import adam
from sisbench.methods.layers.training.discriminator import MultiScaleDiscriminator
from sisbench.methods.layers.training.initial import xavier_modules
from sisbench.methods.layers.training.losses import (
    Predictions,
    feature_matching,
    hinge_discriminator,
    hinge_generator,
)
from sisbench.methods.options import require_not_negative, require_positive
from sisbench.methods.training import Losses, Phase, Step, Training

if TYPE_CHECKING:
    from sisbench.methods.semantic_vae.method import SemanticVAE

CELEBA_WEIGHTS = (
    *(1.0, 0.6899, 0.9764, 0.9987, 0.9992, 0.9992, 0.9968, 0.9968, 0.9970, 0.9975),
    *(0.9982, 0.9968, 0.9935, 0.6729, 0.9905, 0.9991, 1.0019, 0.9703, 0.9783),
)
"""Class weights of the published code, for the 19 classes of CelebAMask-HQ in their order."""


@dataclass(frozen=True)
class SemanticVAETrainingOptions:
    """Losses, discriminator and optimisers; the defaults are those of the published model.

    Attributes:
        ce, kl: weights of the cross-entropy and of the divergence from the prior (equation 3).
        class_weights: of the cross-entropy: official (the published constants, CelebAMask-HQ
            alone), areas (equation 1, from the training set), equal, or one number a class; auto is
            official for celebamask_hq, else areas.
        gan, feature: weights of the optional discriminator's losses; gan 0 leaves it out.
        ndf, n_layers, scales, last_stride: the discriminator's.
        lr_g, lr_d: learning rates.
        betas: Adam's.
    """

    ce: float = 1.0
    kl: float = 5e-4
    class_weights: str | tuple[float, ...] = "auto"
    gan: float = 0.0
    feature: float = 10.0
    ndf: int = 64
    n_layers: int = 3
    scales: int = 2
    last_stride: int = 2
    lr_g: float = 1e-4
    lr_d: float = 4e-4
    betas: tuple[float, float] = (0.0, 0.9)

    def __post_init__(self) -> None:
        require_positive(self, "ndf", "n_layers", "scales", "last_stride", "lr_g", "lr_d")
        require_not_negative(self, "ce", "kl", "gan", "feature")
        words = ("auto", "official", "areas", "equal")
        if isinstance(self.class_weights, str) and self.class_weights not in words:
            raise ValueError(f"class_weights is {', '.join(words)} or numbers")


class SemanticVAETraining(Training):
    """Weighted cross-entropy of the label map, KL of the latents and, where ``gan`` is set, a
    discriminator that sees label maps alone."""

    Options: ClassVar[type] = SemanticVAETrainingOptions
    options: SemanticVAETrainingOptions
    method: SemanticVAE

    def setup(self) -> None:
        """Class weights, and the discriminator where there is one.

        Raises:
            UserError: class weights for another number of classes.
        """
        o, classes = self.options, self.method.net.classes + 1
        self.class_weights: Tensor | None = None  # areas: until ``prepare``
        weights, faces = o.class_weights, self.method.space.name == "celebamask_hq"
        if weights == "official" or (weights == "auto" and faces):
            weights = CELEBA_WEIGHTS
        elif weights == "equal":
            weights = (1.0,) * classes
        if not isinstance(weights, str):
            if len(weights) != classes:
                raise UserError(
                    f"{len(weights)} class weights for {classes} classes",
                    "set class_weights: areas, which takes them from the training set",
                )
            self.class_weights = torch.tensor(weights)
        self.discriminator: nn.Module | None = None
        if o.gan:
            # it sees the classes alone: their last three planes take the place of a photograph's
            self.discriminator = MultiScaleDiscriminator(
                classes - 3, o.ndf, o.n_layers, o.scales, o.last_stride
            )
            xavier_modules(self.discriminator)

    def prepare(self, labels: Tensor) -> None:
        """Class weights by equation 1, where that is asked for."""
        if self.class_weights is None:
            self.class_weights = area_weights(labels, self.method.net.classes + 1)

    def networks(self) -> Mapping[str, nn.Module]:
        """The network, and its discriminator where there is one."""
        found: dict[str, nn.Module] = {"net": self.method.net}
        if self.discriminator is not None:
            found["discriminator"] = self.discriminator
        return found

    def phases(self) -> tuple[Phase, ...]:
        """Generator; then discriminator where there is one."""
        o = self.options
        first = Phase("generator", ("net",), adam(o.lr_g, o.betas), self.generator_losses)
        if self.discriminator is None:
            return (first,)
        rate = adam(o.lr_d, o.betas)
        return (first, Phase("discriminator", ("discriminator",), rate, self.critic_losses))

    # ---- losses -----------------------------------------------------------------------------

    def generator_losses(self, step: Step) -> Losses:
        """Cross-entropy and KL; with a discriminator, hinge and feature matching."""
        label = self.method.labels(step.batch)
        logits, mu, log_var = self.draw(step, label)
        terms = {"ce": self.cross_entropy(logits, label)}
        if self.options.kl:
            terms["kl"] = kl_of_latents(mu, log_var)
        if self.discriminator is not None:
            fake, real = self.judge(logits, label)
            terms["gan"] = hinge_generator(fake)
            if self.options.feature:
                terms["feature"] = feature_matching(fake, real)
        return terms

    def critic_losses(self, step: Step) -> Losses:
        """The hinge on a label map that is drawn anew."""
        label = self.method.labels(step.batch)
        with torch.no_grad():
            logits = self.draw(step, label)[0]
        return {"critic": hinge_discriminator(*self.judge(logits, label))}

    def draw(self, step: Step, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, C, H, W) of sampled latents, and the latents' mean and log-variance."""
        mu, log_var = self.method.net.encode(label)
        eps = draw(step.noise, "eps", len(label), *mu.shape[1:], like=mu)
        z = mu + eps * (log_var / 2).exp()
        return self.method.logits(z, step.noise), mu, log_var

    def cross_entropy(self, logits: Tensor, label: Tensor) -> Tensor:
        """Equation 2: a mean over pixels, each with the weight of its class; holes do not count.

        Raises:
            UserError: weights from the training set are asked for and it was not shown.
        """
        if self.class_weights is None:
            raise UserError(
                "class_weights: areas needs the training set's label maps",
                "call prepare(labels) before the first update",
            )
        weights = self.class_weights.to(logits.device)
        return F.cross_entropy(logits.float(), label, weights, ignore_index=HOLE)

    def judge(self, logits: Tensor, label: Tensor) -> tuple[Predictions, Predictions]:
        """The discriminator on logits and on one-hot maps, in one batch, logits first."""
        assert self.discriminator is not None
        maps = torch.cat([logits, one_hot(label, logits.shape[1], logits.dtype)])
        found = self.discriminator(maps[:, :-3], maps[:, -3:])
        half = len(logits)
        fake = [[stage[:half] for stage in scale] for scale in found]
        return fake, [[stage[half:] for stage in scale] for scale in found]


def kl_of_latents(mu: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mu, exp(log_var)) || N(0, 1)), summed over the latents (B, C, D) of a label map and
    averaged over the batch."""
    mu, log_var = mu.float(), log_var.float()
    terms = 1 + log_var - mu.square() - log_var.exp()
    return -0.5 * terms.flatten(1).sum(1).mean()


def area_weights(labels: Tensor, classes: int) -> Tensor:
    """Equation 1: 1 - the share of the training set's pixels that a class covers.

    Args:
        labels: (N, H, W) integers, negative for none.
        classes: number of classes.

    Returns:
        (classes,) float32
    """
    counts = torch.zeros(classes, dtype=torch.int64)
    for one in labels:
        counts += torch.bincount(one[one >= 0].long().flatten(), minlength=classes)
    return (1 - counts.double() / labels.numel()).float()
