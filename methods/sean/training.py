"""SEAN's training: reconstruction from the photograph's own codes (Zhu et al. 2020, section 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sisbench.methods.layers.training.adversarial import AdversarialOptions, AdversarialTraining


@dataclass(frozen=True)
class SeanTrainingOptions(AdversarialOptions):
    """As SPADE's, with three stages in the discriminator, all of stride 2, and no KL."""

    kl: float = 0.0
    n_layers: int = 3
    last_stride: int = 2


class SeanTraining(AdversarialTraining):
    """Hinge, feature matching and perceptual loss."""

    Options: ClassVar[type] = SeanTrainingOptions
