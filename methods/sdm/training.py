"""SDM's training: noise and variance of a noisy photograph (Wang et al. 2022, section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from sisbench.core.label_space import HOLE
from sisbench.methods.layers.diffusion.respaced import Respaced
from sisbench.methods.layers.labels import instance_edges
from sisbench.methods.layers.training.denoising import (
    adamw,
    drawn_noise,
    drawn_timesteps,
    dropped,
    noised,
)
from sisbench.methods.sdm.blocks import ResBlock, SDMBlock, SelfAttention
from sisbench.methods.training import Losses, Phase, Step, Training

if TYPE_CHECKING:
    from sisbench.methods.sdm.method import SDM

LEVEL = 1 / 127.5
"""Distance of two 8-bit values in [-1, 1]."""
EXTREME = 0.999
"""Beyond it a value stands for all that lie further out."""
RAREST = 1e-12
"""Smallest probability, so that its logarithm is finite."""


@dataclass(frozen=True)
class SDMTrainingOptions:
    """Losses and optimiser; the defaults are those of the first stage on ADE20K.

    Attributes:
        drop: probability that a sample's label map is emptied: 0, and 0.2 in the second stage.
        variance: weight of the variational bound, which trains the variance alone.
        lr: 1e-4 (ADE20K) or 2e-5 (CelebAMask-HQ, and all second stages).
        weight_decay, betas: AdamW's.
    """

    drop: float = 0.0
    variance: float = 1.0
    lr: float = 1e-4
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)

    def __post_init__(self) -> None:
        if not 0 <= self.drop <= 1:
            raise ValueError(f"drop must be within 0..1, got {self.drop}")
        if self.lr <= 0:
            raise ValueError(f"lr must be positive, got {self.lr}")
        if self.variance < 0 or self.weight_decay < 0:
            raise ValueError("variance and weight_decay must not be negative")


class SDMTraining(Training):
    """The UNet denoises photographs; the running average covers it."""

    Options: ClassVar[type] = SDMTrainingOptions
    options: SDMTrainingOptions
    method: SDM

    def setup(self) -> None:
        """The whole schedule, and zero-initialised layers."""
        count = self.method.options.timesteps
        self.schedule = Respaced.make(count, "even", count)
        if self.method.weights_info["source"] == "none":
            self._zero_last_layers()

    @torch.no_grad()
    def _zero_last_layers(self) -> None:
        last: list[nn.Module] = [self.method.net.out[-1]]
        for module in self.method.net.modules():
            if isinstance(module, ResBlock | SDMBlock):
                last.append(module.out_layers[-1])
            elif isinstance(module, SelfAttention):
                last.append(module.proj_out)
        for layer in last:
            for parameter in layer.parameters():
                parameter.zero_()

    def networks(self) -> Mapping[str, nn.Module]:
        """The UNet."""
        return {"unet": self.method.net}

    def phases(self) -> tuple[Phase, ...]:
        """One."""
        o = self.options
        make = adamw(o.lr, o.betas, o.weight_decay)
        return (Phase("diffusion", ("unet",), make, self.losses),)

    def losses(self, step: Step) -> Losses:
        """Mean squared error of the noise, and the variational bound."""
        layout, net = self.method.encode_layout(step.batch), self.method.net
        image = step.batch.image
        gone = dropped(step, self.options.drop, image)[:, None, None]
        label = torch.where(gone, HOLE, self.method.fed(layout.label))
        edges = None
        if net.edges:
            edges = instance_edges(self.method.edge_source(layout)).to(image.dtype)
            edges = torch.where(gone[:, None], 0.0, edges)
        eps = drawn_noise(step, image)
        t = drawn_timesteps(step, len(self.schedule), image)
        x = noised(image, eps, t, self.schedule.alphas)
        out = net(x, t, net.condition(label, edges))
        losses = {"denoising": (out[:, :3] - eps).square().mean()}
        if self.options.variance:
            losses["variance"] = variational_bound(self.schedule, image, x, out, t).mean()
        return losses


def variational_bound(
    schedule: Respaced, image: Tensor, x: Tensor, out: Tensor, t: Tensor
) -> Tensor:
    """The term of step t of the bound on the likelihood, in bits a number (Nichol and Dhariwal
    2021, section 3.1); it moves the variance alone, the mean being fixed.

    Args:
        schedule: of all timesteps.
        image: (B, 3, H, W) clean, in [-1, 1].
        x: (B, 3, H, W) noisy.
        out: (B, 6, H, W) predicted noise, then v.
        t: (B,) timesteps.

    Returns:
        (B,): of the posterior from the prediction, or at t = 0 of the 8-bit picture under it.
    """

    def at(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(x)[t][:, None, None, None]

    alphas, before, betas = schedule.alphas, schedule.alphas_prev, schedule.betas
    variance = betas * (1 - before) / (1 - alphas)
    low = np.log(np.append(variance[1], variance[1:]))  # that of step 0 is 0
    first = betas * np.sqrt(before) / (1 - alphas)
    second = (1 - before) * np.sqrt(1 - betas) / (1 - alphas)
    eps, v = out.chunk(2, 1)
    clean = at(np.sqrt(1 / alphas)) * x - at(np.sqrt(1 / alphas - 1)) * eps.detach()
    mean = at(first) * clean + at(second) * x
    log_variance = torch.lerp(at(low), at(np.log(betas)), (v + 1) / 2)
    true = at(first) * image + at(second) * x
    apart = normal_kl(true, at(low), mean, log_variance)
    likely = -discretised_log_likelihood(image, mean, 0.5 * log_variance)
    bits = torch.where((t == 0)[:, None, None, None], likely, apart) / math.log(2)
    return bits.flatten(1).mean(1)


def normal_kl(mean: Tensor, logvar: Tensor, other: Tensor, other_logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(other, exp(other_logvar))) of each number, in nats."""
    ratio = torch.exp(logvar - other_logvar)
    apart = (mean - other).square() * torch.exp(-other_logvar)
    return 0.5 * (other_logvar - logvar + ratio + apart - 1)


def discretised_log_likelihood(image: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """log of the share of N(mean, exp(log_scale)^2) in the cell of each 8-bit value (Ho et al.
    2020, eq. 13); the cells of the two extreme values are open."""
    inverse = torch.exp(-log_scale)
    high = torch.special.ndtr(inverse * (image - mean + LEVEL / 2))
    low = torch.special.ndtr(inverse * (image - mean - LEVEL / 2))
    high = torch.where(image > EXTREME, 1.0, high)
    low = torch.where(image < -EXTREME, 0.0, low)
    return (high - low).clamp_min(RAREST).log()
