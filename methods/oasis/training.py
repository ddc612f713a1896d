"""OASIS' training: a segmenting discriminator alone judges (Sushko et al. 2021, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from sisbench.methods.layers.labels import one_hot
from sisbench.methods.layers.training.adversarial import PairTraining
from sisbench.methods.layers.training.initial import xavier_method, xavier_modules
from sisbench.methods.oasis.discriminator import SegmentationDiscriminator
from sisbench.methods.options import require_not_negative, require_positive
from sisbench.methods.training import Losses, Step

if TYPE_CHECKING:
    from sisbench.methods.oasis.method import OASIS

FAKE = 0
"""Class of every pixel of a drawn picture; that of a photograph's pixel is 1 + its class."""


@dataclass(frozen=True)
class OasisTrainingOptions:
    """Losses and optimisers; the defaults are the official ones of ADE20K.

    Attributes:
        labelmix: weight of LabelMix: 10 (ADE20K, COCO-Stuff) or 5 (Cityscapes).
        perceptual: weight of the perceptual loss, which the paper does without.
        l1: weight of the mean absolute difference; not in the paper, for small networks.
        width: width factor of the discriminator.
        lr_g, lr_d, betas: Adam's; lr_g is 4e-4 on Cityscapes.
    """

    labelmix: float = 10.0
    perceptual: float = 0.0
    l1: float = 0.0
    width: int = 64
    lr_g: float = 1e-4
    lr_d: float = 4e-4
    betas: tuple[float, float] = (0.0, 0.999)

    def __post_init__(self) -> None:
        require_positive(self, "width", "lr_g", "lr_d")
        require_not_negative(self, "labelmix", "perceptual", "l1")


class OasisTraining(PairTraining):
    """Generator against a discriminator that names the class of each pixel."""

    Options: ClassVar[type] = OasisTrainingOptions
    options: OasisTrainingOptions
    method: OASIS

    def setup(self) -> None:
        """The discriminator, and initial weights (Xavier, gain 0.02)."""
        self.discriminator = SegmentationDiscriminator(self.method.num_classes, self.options.width)
        xavier_method(self.method)
        xavier_modules(self.discriminator)

    def draw(self, step: Step) -> tuple[Tensor, Tensor]:
        """A picture (B, 3, H, W) of drawn noise, and the label map (B, H, W) of the network."""
        layout = self.method.encode_layout(step.batch)
        style = self.method.sample_style(step.batch, step.noise)
        return self.method.render(layout, style, step.noise), self.method.fed(layout.label)

    def weights(self, label: Tensor) -> Tensor:
        """``class_weights`` of the label map; class 0 counts nothing where it is don't care."""
        classes = self.method.num_classes
        return class_weights(label, classes, self.method.semantics.dontcare)

    def generator_losses(self, step: Step) -> Losses:
        """The drawn pixels are to be taken for real ones of their class."""
        picture, label = self.draw(step)
        losses = {"gan": balanced(self.discriminator(picture), label, self.weights(label))}
        if self.options.l1:
            losses["l1"] = (picture - step.batch.image).abs().mean()
        if self.options.perceptual and self.perceptual is not None:
            losses["perceptual"] = self.perceptual(picture, step.batch.image)
        return losses

    def critic_losses(self, step: Step) -> Losses:
        """Real pixels by class, those of a picture drawn anew as fake, and LabelMix."""
        with torch.no_grad():
            fake, label = self.draw(step)
        real = step.batch.image
        of_real, of_fake = self.discriminator(real), self.discriminator(fake)
        losses = {
            "real": balanced(of_real, label, self.weights(label)),
            "fake": F.cross_entropy(of_fake, torch.full_like(label, FAKE)),
        }
        if self.options.labelmix:
            bits = step.noise.shared("labelmix", self.method.num_classes).to(real.device) < 0.5
            mask = mix_mask(label, bits)
            mixed = self.discriminator(mix(mask, real, fake))
            losses["labelmix"] = F.mse_loss(mix(mask, of_real, of_fake), mixed)
        return losses


def class_weights(label: Tensor, classes: int, dontcare: bool) -> Tensor:
    """Weight of each pixel: all pixels of the batch / (classes present * pixels of its class).

    Args:
        label: (B, H, W) int64; -1 (no class) has weight 0.
        classes: number of classes.
        dontcare: class 0 has weight 0 and does not count as present.

    Returns:
        (B, H, W).
    """
    count = one_hot(label, classes).sum((0, 2, 3))  # (C,)
    if dontcare:
        count[0] = 0
    present = (count > 0).sum().clamp_min(1)
    weight = torch.where(count > 0, label.numel() / (present * count.clamp_min(1)), 0.0)
    return torch.where(label < 0, 0.0, weight[label.clamp_min(0)])


def balanced(logits: Tensor, label: Tensor, weight: Tensor) -> Tensor:
    """Mean of weight times cross-entropy, the pixels being real: (B, C + 1, H, W), (B, H, W)."""
    return (weight * F.cross_entropy(logits, label + 1, reduction="none")).mean()


def mix_mask(label: Tensor, bits: Tensor) -> Tensor:
    """(B, 1, H, W) bool: whether a pixel is the photograph's, by the bits (C,) of the classes."""
    return bits[label.clamp_min(0)][:, None]


def mix(mask: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """``real`` where the mask is set, else ``fake``; (B, D, H, W)."""
    return torch.where(mask, real, fake)
