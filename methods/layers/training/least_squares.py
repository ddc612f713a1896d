"""Adversarial training as pix2pixHD and its descendants do it (Wang et al. 2018, section 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from sisbench.methods.layers.training.adversarial import AdversarialOptions, AdversarialTraining
from sisbench.methods.layers.training.discriminator import MultiScaleDiscriminator
from sisbench.methods.layers.training.initial import normal_method, normal_modules
from sisbench.methods.layers.training.losses import Predictions, feature_matching
from sisbench.methods.training import Losses, Step

if TYPE_CHECKING:
    from sisbench.core.batch import Batch
    from sisbench.methods.base import Style

FAKE, REAL = 0.0, 1.0


@dataclass(frozen=True)
class LeastSquaresOptions(AdversarialOptions):
    """Losses, discriminator and optimisers; the defaults are pix2pixHD's.

    Attributes:
        n_layers: the discriminator's stages of stride 2; one of stride 1 follows them.
        std: of the initial weights of convolutions; 0 keeps the framework's.
    """

    kl: float = 0.0
    n_layers: int = 3
    lr_g: float = 2e-4
    lr_d: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)
    initial: str = "torch"
    std: float = 0.02


class LeastSquaresTraining(AdversarialTraining):
    """Generator (with encoder) against a multi-scale discriminator that regresses 1 for photographs
    and 0 for drawn pictures; it sees the picture that the generator's step drew."""

    Options: ClassVar[type] = LeastSquaresOptions
    options: LeastSquaresOptions

    def setup(self) -> None:
        """The discriminator, and initial weights."""
        self.discriminator = self.make_discriminator()
        if self.options.std:
            normal_modules(self.discriminator, self.options.std)
            normal_method(self.method, self.options.std, self.kept_initial())

    def make_discriminator(self) -> nn.Module:
        """Without spectral norm."""
        o = self.options
        channels = self.label_channels()
        return MultiScaleDiscriminator(
            channels, o.ndf, o.n_layers + 1, o.scales, last_stride=1, spectral=False
        )

    # ---- losses -----------------------------------------------------------------------------

    def generator_losses(self, step: Step) -> Losses:
        """All but the discriminator's own; the picture is kept for it."""
        picture, style = self.draw(step)
        step.kept["picture"] = picture.detach()
        fake, real = self.judge(step.batch, picture)
        return self.terms(step, picture, style, fake, real)

    def critic_losses(self, step: Step) -> Losses:
        """Half the squared distances from 0 (drawn) and from 1 (photographs)."""
        fake, real = self.judge(step.batch, step.kept["picture"])
        return {"fake": 0.5 * towards(fake, FAKE), "real": 0.5 * towards(real, REAL)}

    def one_pass(self, step: Step) -> Mapping[str, Losses]:
        """Both from one picture, judged once."""
        picture, style = self.draw(step)
        fake, real = self.judge(step.batch, picture)
        critic = {"fake": 0.5 * towards(fake, FAKE), "real": 0.5 * towards(real, REAL)}
        return {
            "generator": self.terms(step, picture, style, fake, real),
            "discriminator": critic,
        }

    def terms(
        self, step: Step, picture: Tensor, style: Style, fake: Predictions, real: Predictions
    ) -> Losses:
        """As the parent's, with sums over scales."""
        return self.compared(step.batch, picture, fake, real)

    def compared(
        self, batch: Batch, picture: Tensor, fake: Predictions, real: Predictions
    ) -> Losses:
        """Of a picture (B, 3, H, W) that should be the batch's photograph."""
        terms = {"gan": towards(fake, REAL)}
        if self.options.feature:
            terms["feature"] = self.feature_loss(fake, real)
        if self.options.l1:
            terms["l1"] = (picture - batch.image).abs().mean()
        if self.options.perceptual and self.perceptual is not None:
            terms["perceptual"] = self.perceptual(picture, batch.image, self.perceptual_weights)
        return terms

    def feature_loss(self, fake: Predictions, real: Predictions) -> Tensor:
        """``feature_matching``, scaled to four stages."""
        return feature_matching(fake, real) * 4 / (self.options.n_layers + 1)


def towards(predictions: Predictions, target: float) -> Tensor:
    """Mean squared distance of the logits from ``target``, summed over scales."""
    return torch.stack([(scale[-1] - target).square().mean() for scale in predictions]).sum()
