"""FrankenMask's training: whole label maps reconstructed, as in its published script."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch.nn.functional as F
from torch import nn

from sisbench.core.label_space import HOLE
from sisbench.methods.layers.labels import one_hot, with_background
from sisbench.methods.layers.training.adversarial import adam
from sisbench.methods.training import Losses, Phase, Step, Training

if TYPE_CHECKING:
    from sisbench.methods.frankenmask.method import FrankenMask


@dataclass(frozen=True)
class FrankenMaskTrainingOptions:
    """The optimiser; the defaults are those of the published script.

    Attributes:
        lr: learning rate.
        betas: Adam's.
    """

    lr: float = 1e-5
    betas: tuple[float, float] = (0.9, 0.999)

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"lr must be positive, got {self.lr}")


class FrankenMaskTraining(Training):
    """Cross-entropy against the own label map; no exchanged parts are ever seen."""

    Options: ClassVar[type] = FrankenMaskTrainingOptions
    options: FrankenMaskTrainingOptions
    method: FrankenMask

    def networks(self) -> Mapping[str, nn.Module]:
        """The network."""
        return {"net": self.method.net}

    def phases(self) -> tuple[Phase, ...]:
        """One."""
        rate = adam(self.options.lr, self.options.betas)
        return (Phase("generator", ("net",), rate, self.losses),)

    def losses(self, step: Step) -> Losses:
        """Cross-entropy of all classes, the background's logit being 0 or 1; holes do not count."""
        net, label = self.method.net, self.method.labels(step.batch)
        codes = net.encode(one_hot(label, net.classes + 1)[:, 1:])
        logits = with_background(net.decode(net.attend(codes)))
        return {"ce": F.cross_entropy(logits, label, ignore_index=HOLE)}
