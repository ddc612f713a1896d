"""SCAM's training (Dufour et al., ECCV 2022): its discriminator, losses and optimisers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sisbench.methods.layers.training.adversarial import AdversarialOptions, AdversarialTraining
from sisbench.methods.layers.training.discriminator import PatchDiscriminator
from sisbench.methods.layers.training.losses import Predictions, hinge_discriminator
from sisbench.methods.training import Losses, Phase, Step

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from sisbench.core.batch import Batch
    from sisbench.methods.scam.method import SCAM


@dataclass(frozen=True)
class ScamTrainingOptions(AdversarialOptions):
    """L1 in place of feature matching, AdamW, the framework's initial weights.

    Attributes:
        weight_decay: AdamW's, of all networks.
        grad_norm: whether the discriminator's logits are normalised by its gradient; this needs
            second derivatives and about doubles the discriminator's cost.
    """

    feature: float = 0.0
    kl: float = 0.0
    l1: float = 10.0
    betas: tuple[float, float] = (0.9, 0.999)
    initial: str = "torch"
    weight_decay: float = 0.01
    grad_norm: bool = True


class ScamDiscriminator(nn.Module):
    """Patch discriminators without spectral norm, on the picture and its halved forms, whose logits
    are normalised by their gradient in train mode (Wu et al. 2021, section 3).

    Args:
        label_channels: channels of the label map.
        ndf, n_layers, last_stride: see ``PatchDiscriminator``.
        scales: number of networks.
        grad_norm: whether logits are normalised.
    """

    def __init__(
        self,
        label_channels: int,
        ndf: int,
        n_layers: int,
        scales: int,
        last_stride: int,
        grad_norm: bool,
    ) -> None:
        super().__init__()
        channels = label_channels + 3
        self.grad_norm = grad_norm
        self.scales = nn.ModuleList(
            PatchDiscriminator(channels, ndf, n_layers, last_stride, spectral=False)
            for _ in range(scales)
        )

    def forward(self, semantics: Tensor, image: Tensor) -> list[list[Tensor]]:
        """semantics (B, C, H, W), image (B, 3, H, W) -> for each scale features and logits.
        Samples do not touch each other."""
        if not (self.training and self.grad_norm):
            return self._raw(torch.cat([image, semantics], 1))
        with torch.enable_grad():
            x = torch.cat([image, semantics], 1)
            x = x if x.requires_grad else x.requires_grad_()
            found = self._raw(x)
            return [[*stages, normalised_by_gradient(logits, x)] for *stages, logits in found]

    def _raw(self, x: Tensor) -> list[list[Tensor]]:
        found = []
        for i, network in enumerate(self.scales):
            if i:
                image, semantics = x.split([3, x.shape[1] - 3], 1)
                image = F.avg_pool2d(image, 3, stride=2, padding=1, count_include_pad=False)
                x = torch.cat([image, F.interpolate(semantics, image.shape[2:])], 1)
            found.append(network(x))
        return found


def normalised_by_gradient(logits: Tensor, x: Tensor) -> Tensor:
    """logit / (|gradient| + |logit|), in (-1, 1).

    Args:
        logits: (B, 1, h, w), computed from ``x``.
        x: (B, C, H, W); the gradient of a sample's summed logits is taken over all of it.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    norm = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    return logits / (norm[:, None, None, None] + logits.abs())


def adamw(
    rate: float, betas: tuple[float, float], decay: float
) -> Callable[[Iterable[nn.Parameter]], Optimizer]:
    """AdamW's constructor for a phase."""
    return lambda parameters: torch.optim.AdamW(parameters, rate, betas, weight_decay=decay)


class ScamTraining(AdversarialTraining):
    """Hinge, L1 and perceptual loss; the discriminator sees the picture that the generator drew
    before it moved, so that ``one_pass`` gives the same losses and gradients at less cost.

    """

    Options: ClassVar[type] = ScamTrainingOptions
    options: ScamTrainingOptions
    method: SCAM
    forgiven: ClassVar[int] = 4
    """The fifth loss in a row that is not finite ends the training."""

    def make_discriminator(self) -> nn.Module:
        """SCAM's."""
        o = self.options
        channels = self.label_channels()
        return ScamDiscriminator(channels, o.ndf, o.n_layers, o.scales, o.last_stride, o.grad_norm)

    def phases(self) -> tuple[Phase, ...]:
        """Encoder and generator, then the discriminator."""
        o = self.options
        g, d = (adamw(rate, o.betas, o.weight_decay) for rate in (o.lr_g, o.lr_d))
        return (
            Phase("generator", ("net",), g, self.generator_losses),
            Phase("discriminator", ("discriminator",), d, self.critic_losses),
        )

    def generator_losses(self, step: Step) -> Losses:
        """All but the discriminator's own; keeps the picture."""
        picture, style = self.draw(step)
        step.kept["picture"] = picture.detach()
        fake, real = self.judge(step.batch, picture)
        return self.terms(step, picture, style, fake, real)

    def critic_losses(self, step: Step) -> Losses:
        """The hinge on the picture of the generator's phase."""
        return {"critic": hinge_discriminator(*self.judge(step.batch, step.kept["picture"]))}

    def judge(self, batch: Batch, picture: Tensor) -> tuple[Predictions, Predictions]:
        """The discriminator on the photograph and on the picture, in one batch, real first."""
        semantics = self.semantics(batch)
        both = self.discriminator(
            torch.cat([semantics, semantics]), torch.cat([batch.image, picture])
        )
        half = len(picture)
        fake = [[stage[half:] for stage in scale] for scale in both]
        return fake, [[stage[:half] for stage in scale] for scale in both]
