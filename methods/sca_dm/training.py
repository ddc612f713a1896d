"""SCA-DM's training: denoising in the latent of a first stage that is given or trained before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sisbench.core.batch import Batch
from sisbench.core.errors import UserError
from sisbench.core.resize import resize_labels_torch
from sisbench.methods.layers.diffusion.attention import TransformerBlock
from sisbench.methods.layers.diffusion.ddim import alphas_cumprod
from sisbench.methods.layers.diffusion.unet import UNet
from sisbench.methods.layers.labels import one_hot
from sisbench.methods.layers.training.adversarial import adam
from sisbench.methods.layers.training.autoencoder import (
    adaptive_weight,
    codebook_loss,
    commitment_loss,
    load_autoencoder,
    quantised,
    unit_loss,
)
from sisbench.methods.layers.training.denoising import (
    adamw,
    drawn_noise,
    drawn_timesteps,
    dropped,
    noised,
    zero_last_layers,
)
from sisbench.methods.layers.training.discriminator import MultiScaleDiscriminator
from sisbench.methods.layers.training.losses import hinge_discriminator, hinge_generator
from sisbench.methods.options import require_not_negative, require_positive
from sisbench.methods.sca_dm.checkpoint import PREFIXES
from sisbench.methods.training import Losses, Phase, Step, Training

if TYPE_CHECKING:
    from sisbench.methods.sca_dm.method import SCADM, Networks

FORMS = ("bce", "mse")


@dataclass(frozen=True)
class SCADMTrainingOptions:
    """Losses and optimisers; the defaults are the official ones of the final configuration.

    The official rate is 2e-6 for each sample of an update: 9.6e-5 for the official 48 (8 a batch,
    6 accumulated, one device). Whoever changes their number scales ``lr`` likewise.

    Attributes:
        drop: probability that a sample's style image is replaced with zeros.
        attention: weight of the attention loss; officially 0, or 0.01 where ``use_mask_attn`` is
            false.
        attention_form: bce or mse.
        lr, weight_decay, betas: AdamW's, for UNet and style encoder.
        first_stage: file of the first stage's weights (the official vq-f4, a checkpoint of SCA-DM,
            or one that was trained here); None: those that the method holds.
        first_steps: updates, before all others, in which the first stage is trained instead.
        first_lr, first_betas: Adam's, for the first stage and its discriminator (ours; the paper
            states none).
        l1, perceptual, codebook, commitment, gan: weights of the first stage's losses; the
            adversarial one is also scaled adaptively.
        gan_from: update from which the adversarial loss counts: after one epoch or more.
        quantise: whether the first stage's decoder sees codes in training.
        unit: weight of ``unit_loss``, for a first stage whose codes are not used (ours).
        ndf, n_layers: of the first stage's discriminator.
    """

    drop: float = 0.5
    attention: float = 0.0
    attention_form: str = "bce"
    lr: float = 9.6e-5
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    first_stage: str | None = None
    first_steps: int = 0
    first_lr: float = 1e-4
    first_betas: tuple[float, float] = (0.5, 0.9)
    l1: float = 1.0
    perceptual: float = 1.0
    codebook: float = 1.0
    commitment: float = 0.25
    gan: float = 0.8
    gan_from: int = 0
    quantise: bool = True
    unit: float = 0.0
    ndf: int = 64
    n_layers: int = 3

    def __post_init__(self) -> None:
        if self.attention_form not in FORMS:
            raise ValueError(f"attention_form must be bce or mse, got {self.attention_form!r}")
        if not 0 <= self.drop <= 1:
            raise ValueError(f"drop must be within 0..1, got {self.drop}")
        if self.first_stage is not None and self.first_steps:
            raise ValueError("first_stage gives weights and first_steps trains them: take one")
        require_positive(self, "lr", "first_lr", "ndf", "n_layers")
        require_not_negative(
            self,
            "attention",
            "weight_decay",
            "first_steps",
            "l1",
            "perceptual",
            "codebook",
            "commitment",
            "gan",
            "gan_from",
            "unit",
        )


class SCADMTraining(Training):
    """UNet and style encoder learn to denoise latents; the running average covers the UNet."""

    Options: ClassVar[type] = SCADMTrainingOptions
    file_options: ClassVar[frozenset[str]] = frozenset({"first_stage"})
    averages_per_batch: ClassVar[bool] = True
    options: SCADMTrainingOptions
    method: SCADM

    @classmethod
    def require(cls, options: SCADMTrainingOptions, started: bool) -> None:
        """A first stage is given, trained before, or in the weights that the training starts from.

        Raises:
            UserError: there is none.
        """
        if not (started or options.first_stage is not None or options.first_steps):
            raise UserError(
                "sca-dm: the diffusion needs the latent of a first stage, and there is none",
                "give its weights (training.first_stage=FILE) or train one before "
                "(training.first_steps=N)",
            )

    def setup(self) -> None:
        """Zero-initialised layers, the discriminator of the first stage, or its given weights.

        Raises:
            UserError: there is no first stage: none given and none trained.
        """
        o, m = self.options, self.method.options
        if o.first_stage is not None:
            load_autoencoder(self.net.first_stage, o.first_stage, PREFIXES["first_stage"])
        if self.method.weights_info["source"] == "none":
            self.require(o, started=False)
            zero_last_layers(self.net.unet)
        self.signal = alphas_cumprod(m.timesteps, m.linear_start, m.linear_end)
        self.adversary: MultiScaleDiscriminator | None = None
        if o.first_steps and o.gan:
            self.adversary = MultiScaleDiscriminator(0, o.ndf, o.n_layers, 1, 1)

    @property
    def net(self) -> Networks:
        """The method's networks."""
        return self.method.net

    def networks(self) -> Mapping[str, nn.Module]:
        """UNet and style encoder; where it is trained also the first stage and its adversary."""
        found: dict[str, nn.Module] = {
            "unet": self.net.unet,
            "style_encoder": self.net.style_encoder,
        }
        if self.options.first_steps:
            found["first_stage"] = self.net.first_stage
        if self.adversary is not None:
            found["adversary"] = self.adversary
        return found

    def averaged(self) -> tuple[str, ...]:
        """The UNet alone."""
        return ("unet",)

    def fixed(self) -> tuple[nn.Module, ...]:
        """The first stage where it is given."""
        return () if self.options.first_steps else (self.net.first_stage,)

    def phases(self) -> tuple[Phase, ...]:
        """Of the first ``first_steps`` updates, those of the first stage; later the diffusion."""
        o = self.options
        make = adamw(o.lr, o.betas, o.weight_decay)
        diffusion = Phase("diffusion", ("unet", "style_encoder"), make, self.diffusion_losses)
        if not o.first_steps:
            return (diffusion,)
        make = adam(o.first_lr, o.first_betas)
        phases = [Phase("first stage", ("first_stage",), make, self.first_stage_losses)]
        if self.adversary is not None:
            phases.append(Phase("adversary", ("adversary",), make, self.adversary_losses))
        return (*phases, diffusion)

    # ---- diffusion --------------------------------------------------------------------------

    def diffusion_losses(self, step: Step) -> Losses:
        """Mean squared error of the predicted noise, and the attention loss if it is wanted."""
        if step.index < self.options.first_steps:
            return {}
        batch, unet = step.batch, self.net.unet
        with torch.no_grad():
            clean = self.net.first_stage.encode(batch.image)
        gone = dropped(step, self.options.drop, clean)
        image = torch.where(gone[:, None, None, None], 0.0, batch.image)
        codes = self.method.encode_style(with_image(batch, image)).codes
        eps = drawn_noise(step, clean)
        t = drawn_timesteps(step, len(self.signal), clean)
        condition = unet.condition(batch.label, codes, (clean.shape[2], clean.shape[3]))
        watching: AbstractContextManager[list[tuple[TransformerBlock, Tensor]]]
        watching = queries(unet) if self.options.attention else nullcontext([])
        with watching as seen:
            found = unet(noised(clean, eps, t, self.signal), t, condition)
        losses = {"denoising": F.mse_loss(found, eps) + untouched(unet)}
        if self.options.attention:
            losses["attention"] = self.attention_loss(seen, codes, batch.label)
        return losses

    def attention_loss(
        self, seen: list[tuple[TransformerBlock, Tensor]], codes: Tensor, label: Tensor
    ) -> Tensor:
        """Scores of each transformer, averaged over heads, against the label map at its size; the
        mean over pixels and classes, the sum over transformers."""
        classes = self.method.num_classes
        terms = []
        for block, x in seen:
            tokens = x.shape[1]
            scores = block.attn2.scores(block.norm2(x), codes).mean(1)
            size = grid(tokens, label.shape[1], label.shape[2])
            wanted = one_hot(resize_labels_torch(label, size), classes, scores.dtype)
            wanted = wanted.flatten(2).transpose(1, 2)  # (B, h*w, C)
            if self.options.attention_form == "bce":
                terms.append(F.binary_cross_entropy_with_logits(scores, wanted))
            else:
                terms.append(F.mse_loss(scores, wanted))
        return torch.stack(terms).sum()

    # ---- first stage --------------------------------------------------------------------------

    def first_stage_losses(self, step: Step) -> Losses:
        """Reconstruction, codebook and, against the adversary, realism."""
        o = self.options
        if step.index >= o.first_steps:
            return {}
        image, stage = step.batch.image, self.net.first_stage
        latent = stage.encode(image)
        losses: Losses = {}
        inner = latent
        if o.quantise:
            codes = stage.quantize.vectors(stage.quantize.indices(latent.detach()))
            inner = quantised(latent, codes)
            losses["codebook"] = codebook_loss(latent, codes)
            losses["commitment"] = commitment_loss(latent, codes)
        if o.unit:
            losses["unit"] = unit_loss(latent)
        picture = stage.decode(inner, quantize=False)
        step.kept["picture"] = picture.detach()
        losses["l1"] = (picture - image).abs().mean()
        likeness = o.l1 * losses["l1"]
        if o.perceptual and self.perceptual is not None:
            losses["perceptual"] = self.perceptual(picture, image)
            likeness = likeness + o.perceptual * losses["perceptual"]
        if self.adversary is not None and step.index >= o.gan_from:
            gan = hinge_generator(self.adversary(no_labels(picture), picture))
            last = cast("nn.Parameter", stage.decoder.conv_out.weight)
            losses["gan"] = adaptive_weight(likeness, gan, last) * gan
        return losses

    def adversary_losses(self, step: Step) -> Losses:
        """Hinge, on the picture of the same forward pass."""
        if not self.options.gan_from <= step.index < self.options.first_steps:
            return {}
        assert self.adversary is not None
        fake, real = step.kept["picture"], step.batch.image
        judged = [self.adversary(no_labels(x), x) for x in (fake, real)]
        return {"critic": hinge_discriminator(*judged)}


def with_image(batch: Batch, image: Tensor) -> Batch:
    """The batch with another photograph (B, 3, H, W)."""
    return Batch(batch.ids, image, batch.label, batch.instance, batch.space)


def no_labels(image: Tensor) -> Tensor:
    """(B, 0, H, W): what an unconditional discriminator sees of a label map."""
    return image[:, :0]


def grid(tokens: int, height: int, width: int) -> tuple[int, int]:
    """(h, w) of a row of tokens: the image's size, halved as often as it takes."""
    while height * width > tokens:
        height, width = height // 2, width // 2
    return height, width


def untouched(unet: UNet) -> Tensor:
    """0, with a gradient of 0 for what the look-up of one class a pixel leaves out: queries and
    keys. Officially they get this gradient too, so that weight decay moves them."""
    total = torch.zeros(())
    for block in unet.modules():
        if isinstance(block, TransformerBlock) and unet.masked:
            attention = block.attn2
            idle = (attention.to_q, attention.to_k, block.norm2)
            parts = [p.sum() for module in idle for p in module.parameters()]
            total = total.to(parts[0].device) + 0 * torch.stack(parts).sum()
    return total


@contextmanager
def queries(unet: UNet) -> Iterator[list[tuple[TransformerBlock, Tensor]]]:
    """What each transformer's cross-attention asks with, before its norm: (B, h*w, width), in
    running order; filled by the forward pass inside."""
    seen: list[tuple[TransformerBlock, Tensor]] = []
    handles = []

    def entered(block: nn.Module, args: tuple[Any, ...]) -> None:
        seen.append((cast("TransformerBlock", block), args[0]))

    def attended(attention: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
        block, x = seen[-1]
        assert block.attn1 is attention
        seen[-1] = (block, x + out)

    for block in unet.modules():
        if isinstance(block, TransformerBlock):
            handles.append(block.register_forward_pre_hook(entered))
            handles.append(block.attn1.register_forward_hook(attended))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
