"""MaskGAN's training: a picture in its own style, and the blend of two simulated edits of it (Lee
et al. 2020, section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sisbench.core.errors import UserError
from sisbench.core.label_space import HOLE
from sisbench.core.resize import resize_labels_torch
from sisbench.core.state_dict import read_state
from sisbench.methods.key_map import KeyMap
from sisbench.methods.layers.training.adversarial import adam
from sisbench.methods.layers.training.initial import normal_modules
from sisbench.methods.layers.training.least_squares import (
    FAKE,
    REAL,
    LeastSquaresOptions,
    LeastSquaresTraining,
    towards,
)
from sisbench.methods.layers.training.losses import kl_to_prior
from sisbench.methods.maskgan.network import Blender
from sisbench.methods.maskgan.vae import SIDE, MaskVAE
from sisbench.methods.options import require_positive
from sisbench.methods.training import Losses, Phase, Step

if TYPE_CHECKING:
    from sisbench.methods.maskgan.method import MaskGAN

BLEND = "blend_"
"""Prefix of the losses of the blended picture; they have the weights of those of the first."""


@dataclass(frozen=True)
class MaskganTrainingOptions(LeastSquaresOptions):
    """Losses and optimisers; the released options where they say, ours elsewhere: the loop, the
    sum of the terms and the MaskVAE's training were not released.

    Attributes:
        lr_joint: rate of the step of generator and blender together.
        vae: file of the MaskVAE's weights.
        vae_steps: updates, before all others, in which a MaskVAE is trained. Without either there
            are no simulated edits: the generator is trained alone.
        vae_kl: weight of the MaskVAE's divergence from the prior.
        lr_vae: its rate.
    """

    lr_g: float = 5e-5
    lr_d: float = 5e-5
    lr_joint: float = 5e-5
    vae: str | None = None
    vae_steps: int = 0
    vae_kl: float = 1e-5
    lr_vae: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vae is not None and self.vae_steps:
            raise ValueError("vae gives weights and vae_steps trains them: take one")
        require_positive(self, "lr_joint", "lr_vae")
        if self.vae_steps < 0 or self.vae_kl < 0:
            raise ValueError("vae_steps and vae_kl must not be negative")


class MaskganTraining(LeastSquaresTraining):
    """Generator alone, then with the blender on two edits that a MaskVAE simulates.

    Blender and MaskVAE belong to training alone: the weights that are written lack them.
    """

    Options: ClassVar[type] = MaskganTrainingOptions
    file_options: ClassVar[frozenset[str]] = frozenset({"vae"})
    options: MaskganTrainingOptions
    method: MaskGAN

    def setup(self) -> None:
        """Discriminator, blender and MaskVAE, and initial weights."""
        super().setup()
        o, m = self.options, self.method.options
        self.blender: Blender | None = None
        self.vae: MaskVAE | None = None
        if o.vae is None and not o.vae_steps:
            return
        self.blender = Blender(ngf=m.B_ngf)
        if o.std:
            normal_modules(self.blender, o.std)
        self.vae = MaskVAE(self.method.num_classes, m.vae_ngf, m.vae_ngf, m.vae_latent)
        if o.vae is not None:
            keys = KeyMap(self.vae)
            keys.same()
            keys.load(read_state(Path(o.vae)), o.vae)

    def kept_initial(self) -> str:
        """The transposed convolutions."""
        net = self.method.net.netG
        places = [str(net.middle + net.blocks + 3 * i) for i in range(net.downs)]
        return rf"^model\.({'|'.join(places)})\.weight$"

    def networks(self) -> Mapping[str, nn.Module]:
        """Generator and discriminator; with simulated edits also blender and MaskVAE."""
        found: dict[str, nn.Module] = {
            "generator": self.method.net.netG,
            "discriminator": self.discriminator,
        }
        if self.blender is not None:
            found["blender"] = self.blender
        if self.vae is not None:
            found["vae"] = self.vae
        return found

    def phases(self) -> tuple[Phase, ...]:
        """MaskVAE; generator; discriminator; generator and blender: three Adams officially."""
        o = self.options
        first = Phase("generator", ("generator",), adam(o.lr_g, o.betas), self.generator_losses)
        critic = Phase(
            "discriminator", ("discriminator",), adam(o.lr_d, o.betas), self.critic_losses
        )
        if self.blender is None:
            return first, critic
        joint = adam(o.lr_joint, o.betas)
        both = Phase("blending", ("generator", "blender"), joint, self.blend_losses)
        if not o.vae_steps:
            return first, both, critic
        vae = Phase("vae", ("vae",), adam(o.lr_vae, o.betas), self.vae_losses)
        return vae, first, both, critic

    def weight(self, loss: str) -> float:
        """Of a blended picture as of the other."""
        return super().weight(loss.removeprefix(BLEND))

    def one_pass(self, step: Step) -> Mapping[str, Losses]:
        """Of the generator alone.

        Raises:
            UserError: edits are simulated: they need passes of their own.
        """
        if self.blender is not None:
            raise UserError("maskgan: simulated edits have no one-pass form", "set order: official")
        return super().one_pass(step)

    # ---- losses -----------------------------------------------------------------------------

    def vae_losses(self, step: Step) -> Losses:
        """Cross-entropy of the label map, whose holes do not count, and divergence from the prior,
        in the first updates."""
        if step.index >= self.options.vae_steps:
            return {}
        assert self.vae is not None
        mean, logvar = self.vae.encode(step.batch.label)
        eps = step.noise.normal("vae", mean.shape[1]).to(mean)
        logits = self.vae.decode(mean + (0.5 * logvar).exp() * eps)
        label = resize_labels_torch(step.batch.label, (SIDE, SIDE))
        kl = kl_to_prior(mean, logvar) / len(mean)
        mask = F.cross_entropy(logits, label, ignore_index=HOLE)
        return {"mask": mask, "vae_kl": kl}

    def generator_losses(self, step: Step) -> Losses:
        """Of the picture in its own style."""
        return {} if step.index < self.options.vae_steps else super().generator_losses(step)

    def blend_losses(self, step: Step) -> Losses:
        """Of the blend of two edits, which should be the photograph too."""
        if step.index < self.options.vae_steps:
            return {}
        picture = self.blended(step, *self.edits(step.batch.label))
        step.kept["blend"] = picture.detach()
        fake, real = self.judge(step.batch, picture)
        return {BLEND + k: v for k, v in self.compared(step.batch, picture, fake, real).items()}

    @torch.no_grad()
    def edits(self, label: Tensor) -> tuple[Tensor, Tensor]:
        """Inner and outer label map (B, H, W), towards and away from the batch's next one.

        Raises:
            UserError: a single sample has no other to move towards.
        """
        if len(label) < 2:
            raise UserError(
                "maskgan: simulated edits move a label map towards another one of its micro-batch",
                "take at least two samples a micro-batch and device, or leave vae out",
            )
        assert self.vae is not None
        self.vae.eval()
        inner, outer = (x.argmax(1) for x in self.vae.between(label, label.roll(1, 0)))
        self.vae.train()
        size = (label.shape[1], label.shape[2])
        return resize_labels_torch(inner, size), resize_labels_torch(outer, size)

    def blended(self, step: Step, inner: Tensor, outer: Tensor) -> Tensor:
        """Both edits (B, H, W), drawn in the photograph's style and blended: (B, 3, H, W)."""
        assert self.blender is not None
        style = self.method.encode_style(step.batch)
        net = self.method.net.netG
        return self.blender.blend(net.draw(inner, style.codes), net.draw(outer, style.codes))[0]

    def critic_losses(self, step: Step) -> Losses:
        """Half for photographs, half for what was drawn, one picture or two."""
        if step.index < self.options.vae_steps:
            return {}
        if "blend" not in step.kept:
            return super().critic_losses(step)
        fake, real = self.judge(step.batch, step.kept["picture"])
        blend, _ = self.judge(step.batch, step.kept["blend"])
        return {
            "fake": 0.25 * towards(fake, FAKE),
            "blend": 0.25 * towards(blend, FAKE),
            "real": 0.5 * towards(real, REAL),
        }
