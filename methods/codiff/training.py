"""CoDiff's training of the mask-driven model: denoising in a given latent (Huang et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import nn

from sisbench.core.errors import UserError
from sisbench.methods.codiff.checkpoint import MASK_ONLY
from sisbench.methods.layers.diffusion.ddim import alphas_cumprod
from sisbench.methods.layers.training.autoencoder import load_autoencoder
from sisbench.methods.layers.training.denoising import (
    adamw,
    drawn_noise,
    drawn_timesteps,
    noised,
    zero_last_layers,
)
from sisbench.methods.training import Losses, Phase, Step, Training

if TYPE_CHECKING:
    from sisbench.methods.codiff.first_stage import FirstStage
    from sisbench.methods.codiff.method import CoDiff
    from sisbench.methods.layers.diffusion.unet import UNet


@dataclass(frozen=True)
class CoDiffTrainingOptions:
    """First stage and optimiser; the defaults are the official ones at 256.

    The official rate is 2e-6 (at 512: 1e-6) for each sample of an update: 6.4e-5 for the official
    32 (8 a batch, four devices). Whoever changes their number scales ``lr`` likewise.

    Attributes:
        first_stage: file of the first stage's weights: its own or a checkpoint of CoDiff; None:
            those that the method holds.
        lr, weight_decay, betas: AdamW's.
    """

    first_stage: str | None = None
    lr: float = 6.4e-5
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"lr must be positive, got {self.lr}")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must not be negative, got {self.weight_decay}")


class CoDiffTraining(Training):
    """UNet and mask encoder learn to denoise latents; no condition is dropped."""

    Options: ClassVar[type] = CoDiffTrainingOptions
    file_options: ClassVar[frozenset[str]] = frozenset({"first_stage"})
    options: CoDiffTrainingOptions
    method: CoDiff

    def setup(self) -> None:
        """Zero-initialised layers and the given first stage.

        Raises:
            UserError: the composed model with captions; no first stage.
        """
        o, m = self.options, self.method.options
        if m.text:
            raise UserError(
                "codiff: the mask-driven model is trained, not the one with captions",
                "leave the options of captions out",
            )
        if o.first_stage is not None:
            prefix = MASK_ONLY["first_stage"][0]
            load_autoencoder(self.first_stage, o.first_stage, prefix)
        elif self.method.weights_info["source"] == "none":
            raise UserError(
                "codiff: the diffusion needs the latent of a first stage, and there is none",
                "give its weights (first_stage: FILE)",
            )
        if self.method.weights_info["source"] == "none":
            zero_last_layers(self.unet)
        self.signal = alphas_cumprod(m.timesteps, m.linear_start, m.linear_end)

    @property
    def unet(self) -> UNet:
        """The UNet."""
        return cast("UNet", self.method.net["unet"])

    @property
    def first_stage(self) -> FirstStage:
        """The autoencoder."""
        return cast("FirstStage", self.method.net["first_stage"])

    def networks(self) -> Mapping[str, nn.Module]:
        """UNet and mask encoder."""
        return {name: self.method.net[name] for name in ("unet", "cond_stage")}

    def fixed(self) -> tuple[nn.Module, ...]:
        """The first stage."""
        return (self.first_stage,)

    def phases(self) -> tuple[Phase, ...]:
        """One."""
        o = self.options
        make = adamw(o.lr, o.betas, o.weight_decay)
        return (Phase("diffusion", ("unet", "cond_stage"), make, self.losses),)

    def losses(self, step: Step) -> Losses:
        """Mean squared error of the predicted noise; noise ``posterior`` draws the latent."""
        layout = self.method.encode_layout(step.batch)
        with torch.no_grad():
            mean, _ = self.first_stage.moments(step.batch.image)
            clean = self.first_stage.encode(step.batch.image, drawn_noise(step, mean, "posterior"))
        eps = drawn_noise(step, clean)
        t = drawn_timesteps(step, len(self.signal), clean)
        condition = self.unet.token_condition(self.method.tokens(layout.label))
        found = self.unet(noised(clean, eps, t, self.signal), t, condition)
        return {"denoising": F.mse_loss(found, eps)}
