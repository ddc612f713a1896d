"""A method of a few parameters that declares its own training; as an author would write it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sisbench.core.label_space import LabelSpace
from sisbench.methods.base import Layout, Method, NoiseSource, Style
from sisbench.methods.layers.labels import one_hot, region_means
from sisbench.methods.training import Losses, Phase, Step, Training


@dataclass(frozen=True)
class TintOptions:
    """Weight of the one loss, and the learning rate."""

    l1: float = 1.0
    rate: float = 0.05


class TintTraining(Training):
    """Mean absolute difference, under a little noise."""

    Options = TintOptions

    def networks(self) -> Mapping[str, nn.Module]:
        return {"net": self.method.net}

    def phases(self) -> tuple[Phase, ...]:
        rate = self.options.rate
        return (Phase("net", ("net",), lambda p: torch.optim.SGD(p, rate, 0.9), self.losses),)

    def losses(self, step: Step) -> Losses:
        method: Any = self.method
        made = method.render(
            method.encode_layout(step.batch), method.encode_style(step.batch), step.noise
        )
        noise = 0.1 * step.noise.normal("blur", *made.shape[1:])
        return {"l1": (made + noise - step.batch.image).abs().mean()}


class Tint(Method):
    """Mean colours of classes through a linear map."""

    name, title, size = "tint", "Tint", (32, 32)

    @classmethod
    def training(cls) -> type[Training]:
        return TintTraining

    def build(self, space: LabelSpace) -> nn.Module:
        return nn.Linear(3, 3)

    def encode_style(self, batch: Any) -> Style:
        codes = region_means(batch.image, batch.label, self.num_classes)
        return Style(codes, self.encode_layout(batch).present)

    def render(self, layout: Layout, style: Style, noise: NoiseSource) -> Tensor:
        planes = one_hot(layout.label, self.num_classes)
        return torch.einsum("bchw,bck->bkhw", planes, self.net(style.codes))
