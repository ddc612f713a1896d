"""SC-GAN's training: SPADE's losses and an auxiliary picture (Wang et al. 2021, section 3.4)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from sisbench.core.resize import resize_labels_torch
from sisbench.methods.layers.labels import one_hot
from sisbench.methods.layers.training.adversarial import AdversarialOptions, AdversarialTraining
from sisbench.methods.scgan.routing import LEVELS

if TYPE_CHECKING:
    from sisbench.core.batch import Batch
    from sisbench.methods.base import Style
    from sisbench.methods.layers.training.losses import Predictions
    from sisbench.methods.scgan.method import SCGAN
    from sisbench.methods.training import Losses, Step


@dataclass(frozen=True)
class ScganTrainingOptions(AdversarialOptions):
    """As SPADE's, with Adam's other second beta.

    Attributes:
        auxiliary: weight of the mean absolute difference of the routing network's picture: 1 on
            CelebAMask-HQ, 2 on ADE20K.
    """

    betas: tuple[float, float] = (0.0, 0.999)
    auxiliary: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.auxiliary < 0:
            raise ValueError(f"auxiliary must not be negative, got {self.auxiliary}")


class ScganTraining(AdversarialTraining):
    """Hinge, feature matching, perceptual loss, KL, and the auxiliary picture.

    The discriminator is SPADE's on every data set; ADE20K's official one (FPSE) is not specified.
    """

    Options: ClassVar[type] = ScganTrainingOptions
    options: ScganTrainingOptions
    method: SCGAN

    def draw(self, step: Step) -> tuple[Tensor, Style]:
        """As the parent's; the routing network's last features are kept."""
        routing = self.method.net.netG.pyramid_spaital_routing
        with last_output(getattr(routing, f"labelDec{LEVELS}")[-1]) as seen:
            found = super().draw(step)
        step.kept["routed"] = seen[0]
        return found

    def semantics(self, batch: Batch) -> Tensor:
        """The network's own order of the classes."""
        label = self.method.fed(self.method.encode_layout(batch).label)
        size = (batch.image.shape[2], batch.image.shape[3])
        return one_hot(resize_labels_torch(label, size), self.method.num_classes)

    def terms(
        self, step: Step, picture: Tensor, style: Style, fake: Predictions, real: Predictions
    ) -> Losses:
        """As the parent's, and the auxiliary picture's distance."""
        terms = super().terms(step, picture, style, fake, real)
        routed = step.kept.pop("routed")
        if self.options.auxiliary:
            auxiliary = self.method.net.netG.pyramid_spaital_routing.toRGB(routed)
            terms["auxiliary"] = (auxiliary - step.batch.image).abs().mean()
        return terms


@contextmanager
def last_output(module: nn.Module) -> Iterator[list[Tensor]]:
    """What ``module`` gives inside, by call."""
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _args: tuple[Any, ...], out: Tensor) -> None:
        seen.append(out)

    handle = module.register_forward_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()
