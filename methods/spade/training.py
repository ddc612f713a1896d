"""SPADE's training (Park et al. 2019, section 3 and appendix A)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sisbench.methods.layers.training.adversarial import AdversarialTraining

if TYPE_CHECKING:
    from sisbench.methods.spade.method import SPADE


class SpadeTraining(AdversarialTraining):
    """Hinge, feature matching, perceptual loss and, with the encoder, KL to the prior."""

    method: SPADE

    def label_channels(self) -> int:
        """Classes, and instance edges where the network has them."""
        return self.method.semantics.channels
