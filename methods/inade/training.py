"""INADE's and V-INADE's training (Tan et al., CVPR 2021, section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, cast

import torch
from torch import Tensor

from sisbench.core.errors import UserError
from sisbench.methods.inade.style import InstanceStyle
from sisbench.methods.layers.labels import instance_edges, one_hot
from sisbench.methods.layers.training.adversarial import AdversarialTraining
from sisbench.methods.layers.training.losses import Predictions, kl_to_prior

if TYPE_CHECKING:
    from sisbench.core.batch import Batch
    from sisbench.methods.base import Style
    from sisbench.methods.inade.method import INADE
    from sisbench.methods.training import Losses, Step


class InadeTraining(AdversarialTraining):
    """SPADE's losses with fewer depths: feature matching on the last stage before the prediction,
    a perceptual loss on the two deepest levels; with the encoder, KL to the prior.

    The discriminator sees the label map and its edges (those of the instance map where there is
    one), the generator no edges.
    """

    method: INADE
    perceptual_weights: ClassVar[Sequence[float]] = (0.0, 0.0, 0.0, 1 / 4, 1.0)

    def setup(self) -> None:
        """As the parent's.

        Raises:
            UserError: the sketch branch, which no data set feeds.
        """
        if self.method.options.add_sketch:
            raise UserError(
                "the sketch branch needs a sketch, which no data set of the harness brings",
                "leave add_sketch out",
            )
        super().setup()

    @property
    def matched(self) -> Sequence[int]:  # type: ignore[override]
        """The last stage before the prediction (stage 3 of the official four)."""
        return (self.options.n_layers - 1,)

    def label_channels(self) -> int:
        """Classes and the edges."""
        return self.method.num_classes + 1

    def semantics(self, batch: Batch) -> Tensor:
        """(B, C + 1, H, W): classes, then the edges of the instances, or of the classes."""
        layout = self.method.encode_layout(batch)
        ids = layout.label if layout.instance is None else layout.instance
        return torch.cat([one_hot(layout.label, self.method.num_classes), instance_edges(ids)], 1)

    def terms(
        self, step: Step, picture: Tensor, style: Style, fake: Predictions, real: Predictions
    ) -> Losses:
        """As the parent's; without the encoder there is no posterior."""
        terms = super().terms(step, picture, style, fake, real)
        if not self.method.options.use_vae:
            terms.pop("kl", None)
        return terms

    def kl(self, style: Style) -> Tensor:
        """The mean of scale's and shift's divergence, each summed over batch, instances and
        channels; an instance that a sample lacks adds 0."""
        own = cast("InstanceStyle", style).own
        if own is None:  # each class is one instance
            return kl_to_prior(style.codes, style.extra["logvar"]) / 2
        return kl_to_prior(own.mu, own.logvar) / 2
