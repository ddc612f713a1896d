"""CLADE's training: SPADE's losses (Tan et al. 2021, section 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sisbench.methods.layers.training.adversarial import AdversarialTraining

if TYPE_CHECKING:
    from sisbench.methods.clade.method import CLADE


class CladeTraining(AdversarialTraining):
    """Hinge, feature matching, perceptual loss and, with the encoder, KL to the prior. The tables
    by class keep their uniform initial values."""

    method: CLADE

    def label_channels(self) -> int:
        """Classes, and instance edges where the network has them."""
        return self.method.semantics.channels

    def kept_initial(self) -> str:
        """The tables."""
        return r"(class_specified_affine|segmap_encoder)\.(weight|bias)$"
