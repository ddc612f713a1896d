"""SEAN-CLADE's training as SCAM's repository has it (Dufour et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sisbench.methods.layers.training.adversarial import AdversarialOptions, AdversarialTraining


@dataclass(frozen=True)
class SeanCladeTrainingOptions(AdversarialOptions):
    """SPADE's losses without KL, and Adam's other second beta."""

    kl: float = 0.0
    betas: tuple[float, float] = (0.0, 0.999)


class SeanCladeTraining(AdversarialTraining):
    """Hinge, feature matching and perceptual loss, from the photograph's own codes."""

    Options: ClassVar[type] = SeanCladeTrainingOptions
    zero_biases: ClassVar[bool] = False

    def kept_initial(self) -> str:
        """The tables by class, and biases."""
        return r"segmap_encoder\.weight$|bias$"
