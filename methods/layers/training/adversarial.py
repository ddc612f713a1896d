"""Adversarial training as the SPADE family does it (Park et al. 2019, section 3, appendix A)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from sisbench.methods.layers.labels import instance_edges, one_hot
from sisbench.methods.layers.training.discriminator import MultiScaleDiscriminator
from sisbench.methods.layers.training.initial import xavier_method, xavier_modules
from sisbench.methods.layers.training.losses import (
    Predictions,
    feature_matching,
    hinge_discriminator,
    hinge_generator,
    kl_to_prior,
)
from sisbench.methods.layers.training.perceptual import SPADE_WEIGHTS
from sisbench.methods.options import require_not_negative, require_positive
from sisbench.methods.training import Losses, Phase, Step, Training

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from sisbench.core.batch import Batch
    from sisbench.methods.base import Method, Style


@dataclass(frozen=True)
class AdversarialOptions:
    """Losses, discriminator and optimisers; the defaults are SPADE's.

    Attributes:
        gan, feature, perceptual, kl: weights of the losses of the paper.
        l1: weight of the mean absolute difference; not in the papers, for small networks.
        ndf, n_layers, scales, last_stride: the discriminator's.
        lr_g, lr_d: learning rates (two time scales).
        betas: Adam's.
        initial: xavier (normal, gain 0.02, officially) or torch (the framework's).
    """

    gan: float = 1.0
    feature: float = 10.0
    perceptual: float = 10.0
    kl: float = 0.05
    l1: float = 0.0
    ndf: int = 64
    n_layers: int = 4
    scales: int = 2
    last_stride: int = 1
    lr_g: float = 1e-4
    lr_d: float = 4e-4
    betas: tuple[float, float] = (0.0, 0.9)
    initial: str = "xavier"

    def __post_init__(self) -> None:
        if self.initial not in ("xavier", "torch"):
            raise ValueError(f"initial must be xavier or torch, got {self.initial!r}")
        require_positive(self, "ndf", "n_layers", "scales", "last_stride", "lr_g", "lr_d")
        require_not_negative(self, "gan", "feature", "perceptual", "kl", "l1")


def adam(rate: float, betas: tuple[float, float]) -> Callable[[Iterable[nn.Parameter]], Optimizer]:
    """Adam's constructor for a phase."""
    return lambda parameters: torch.optim.Adam(parameters, rate, betas)


class PairTraining(Training):
    """A method and its discriminator, each moved by Adam, the method first; ``options`` has
    ``lr_g``, ``lr_d`` and ``betas``. ``setup`` builds the discriminator."""

    method: Method
    discriminator: nn.Module

    def networks(self) -> Mapping[str, nn.Module]:
        """The method and its discriminator."""
        return {"net": self.method.net, "discriminator": self.discriminator}

    def phases(self) -> tuple[Phase, ...]:
        """Generator, then discriminator."""
        o: Any = self.options
        return (
            Phase("generator", ("net",), adam(o.lr_g, o.betas), self.generator_losses),
            Phase("discriminator", ("discriminator",), adam(o.lr_d, o.betas), self.critic_losses),
        )

    @abstractmethod
    def generator_losses(self, step: Step) -> Losses:
        """The losses that move the method."""

    @abstractmethod
    def critic_losses(self, step: Step) -> Losses:
        """The losses that move the discriminator."""


class AdversarialTraining(PairTraining):
    """Generator (with encoder) against a multi-scale patch discriminator: the generator moves
    first, the discriminator sees a picture that is drawn anew without gradient.

    Class attributes:
        matched: stages of the discriminator that feature matching compares; None for all.
        perceptual_weights: of the five depths.
        zero_biases: whether the discriminator's biases start at 0 too.
    """

    Options: ClassVar[type] = AdversarialOptions
    options: AdversarialOptions
    matched: ClassVar[Sequence[int] | None] = None
    perceptual_weights: ClassVar[Sequence[float]] = SPADE_WEIGHTS
    zero_biases: ClassVar[bool] = True

    def setup(self) -> None:
        """The discriminator, and initial weights."""
        self.discriminator = self.make_discriminator()
        if self.options.initial == "xavier":
            xavier_method(self.method, kept=self.kept_initial())
            xavier_modules(self.discriminator, biases=self.zero_biases)

    def kept_initial(self) -> str:
        """Pattern of the official keys that keep the framework's initial values; none here."""
        return "$^"

    def make_discriminator(self) -> nn.Module:
        """Takes (semantics, picture), gives for each scale features and logits."""
        o = self.options
        channels = self.label_channels()
        return MultiScaleDiscriminator(channels, o.ndf, o.n_layers, o.scales, o.last_stride)

    def label_channels(self) -> int:
        """Channels of ``semantics``."""
        return self.method.num_classes

    # ---- losses -----------------------------------------------------------------------------

    def generator_losses(self, step: Step) -> Losses:
        """All but the discriminator's own."""
        picture, style = self.draw(step)
        fake, real = self.judge(step.batch, picture)
        return self.terms(step, picture, style, fake, real)

    @torch.no_grad()
    def _drawn_anew(self, step: Step) -> Tensor:
        return self.draw(step)[0]

    def critic_losses(self, step: Step) -> Losses:
        """The hinge on a picture that is drawn anew."""
        return {"critic": hinge_discriminator(*self.judge(step.batch, self._drawn_anew(step)))}

    def one_pass(self, step: Step) -> Mapping[str, Losses]:
        """Both from one picture, judged once."""
        picture, style = self.draw(step)
        fake, real = self.judge(step.batch, picture)
        generator = self.terms(step, picture, style, fake, real)
        critic = {"critic": hinge_discriminator(fake, real)}
        return {"generator": generator, "discriminator": critic}

    def draw(self, step: Step) -> tuple[Tensor, Style]:
        """The reconstruction (B, 3, H, W) and the style that it used."""
        style = self.method.encode_style(step.batch)
        layout = self.method.encode_layout(step.batch)
        return self.method.render(layout, style, step.noise), style

    def judge(self, batch: Batch, picture: Tensor) -> tuple[Predictions, Predictions]:
        """The discriminator on the picture and on the photograph, in one batch, fake first."""
        semantics = self.semantics(batch)
        both = self.discriminator(
            torch.cat([semantics, semantics]), torch.cat([picture, batch.image])
        )
        half = len(picture)
        fake = [[stage[:half] for stage in scale] for scale in both]
        return fake, [[stage[half:] for stage in scale] for scale in both]

    def semantics(self, batch: Batch) -> Tensor:
        """What the discriminator sees of the label map: (B, label_channels(), H, W)."""
        planes = one_hot(self.method.encode_layout(batch).label, self.method.num_classes)
        if self.label_channels() == self.method.num_classes:
            return planes
        return torch.cat([planes, instance_edges(cast("Tensor", batch.instance))], 1)

    def terms(
        self, step: Step, picture: Tensor, style: Style, fake: Predictions, real: Predictions
    ) -> Losses:
        """The generator's losses, unweighted; a weight of 0 leaves one out."""
        image = step.batch.image
        terms = {"gan": hinge_generator(fake)}
        if self.options.feature:
            terms["feature"] = feature_matching(fake, real, self.matched)
        if self.options.l1:
            terms["l1"] = (picture - image).abs().mean()
        if self.options.kl and "logvar" in style.extra:
            terms["kl"] = self.kl(style)
        if self.options.perceptual and self.perceptual is not None:
            terms["perceptual"] = self.perceptual(picture, image, self.perceptual_weights)
        return terms

    def kl(self, style: Style) -> Tensor:
        """Divergence of the posterior from N(0, 1), summed over the batch as officially."""
        return kl_to_prior(style.codes, style.extra["logvar"])
