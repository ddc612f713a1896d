"""CA2-SIS's training: the generator with its style encoder, then the mapping network on its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sisbench.core.errors import UserError
from sisbench.core.resize import resize_labels_torch
from sisbench.methods.base import Style, draw
from sisbench.methods.layers.labels import one_hot
from sisbench.methods.layers.training.adversarial import (
    AdversarialOptions,
    AdversarialTraining,
    adam,
)
from sisbench.methods.layers.training.initial import xavier_modules
from sisbench.methods.layers.training.losses import Predictions, hinge_generator
from sisbench.methods.training import Losses, Phase, Step

if TYPE_CHECKING:
    from sisbench.methods.ca2sis.method import CA2SIS

_MAPPING = "noise_encoder"


@dataclass(frozen=True)
class CA2SISTrainingOptions(AdversarialOptions):
    """As SPADE's, with three stages in the discriminator, all of stride 2, no KL, and:

    Attributes:
        attention: weight of the attention loss (section III-C); 0 is Table 1's "w/o AttLoss".
        attention_form: logits (as the published code) or softmax (each head, equation 6).
        stage: style (everything but the mapping network) or diversity (the mapping network alone,
            section IV-G: gan, diversity and attention are then the only losses).
        diversity: weight of the diversity loss.
        initial: xavier or torch, of the discriminator; all else keeps the framework's, as
            officially.
    """

    kl: float = 0.0
    n_layers: int = 3
    last_stride: int = 2
    attention: float = 1.0
    attention_form: str = "logits"
    stage: str = "style"
    diversity: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attention_form not in ("logits", "softmax"):
            raise ValueError(f"attention_form is logits or softmax, got {self.attention_form!r}")
        if self.stage not in ("style", "diversity"):
            raise ValueError(f"stage must be style or diversity, got {self.stage!r}")
        if self.attention < 0 or self.diversity < 0:
            raise ValueError("attention and diversity must not be negative")


class CA2SISTraining(AdversarialTraining):
    """Hinge, feature matching, perceptual and attention loss; in the stage ``diversity``, hinge,
    attention loss and the distance of two pictures of one label map."""

    Options: ClassVar[type] = CA2SISTrainingOptions
    options: CA2SISTrainingOptions
    method: CA2SIS

    def setup(self) -> None:
        """The discriminator.

        Raises:
            UserError: a loss or stage that the network has nothing for.
        """
        o, net = self.options, self.method.net
        if o.attention and not net.attention:
            raise UserError(
                "the ablation without cross-attention has no attention loss", "set attention: 0"
            )
        if o.stage == "diversity" and not hasattr(net, _MAPPING):
            raise UserError("there is no mapping network to train", "set noise_encoder: true")
        self.discriminator = self.make_discriminator()
        if o.initial == "xavier":
            xavier_modules(self.discriminator)

    def _trained(self, name: str) -> bool:
        return (name == _MAPPING) == (self.options.stage == "diversity")

    def networks(self) -> Mapping[str, nn.Module]:
        """The parts that the stage trains, and the discriminator."""
        parts = {k: v for k, v in self.method.net.named_children() if self._trained(k)}
        return {**parts, "discriminator": self.discriminator}

    def fixed(self) -> tuple[nn.Module, ...]:
        """The parts that it does not train."""
        return tuple(v for k, v in self.method.net.named_children() if not self._trained(k))

    def phases(self) -> tuple[Phase, ...]:
        """Generator, then discriminator."""
        o = self.options
        parts = tuple(name for name in self.networks() if name != "discriminator")
        return (
            Phase("generator", parts, adam(o.lr_g, o.betas), self.generator_losses),
            Phase("discriminator", ("discriminator",), adam(o.lr_d, o.betas), self.critic_losses),
        )

    # ---- losses -----------------------------------------------------------------------------

    def draw(self, step: Step) -> tuple[Tensor, Style]:
        """The picture, and the style that it used; with gradients, the attention loss is left in
        ``step.kept``."""
        if self.options.stage == "diversity":
            style = self.method.sample_style(step.batch, step.noise)
        else:
            style = self.method.encode_style(step.batch)
        layout = self.method.encode_layout(step.batch)
        maps: list[Tensor] | None = None
        if self.options.attention and torch.is_grad_enabled():
            maps = []
        per_head = self.options.attention_form == "softmax"
        picture = self.method.draw(layout, style, maps, per_head)
        if maps is not None:
            loss = attention_of_heads if per_head else attention_of_logits
            step.kept["attention"] = loss(maps, layout.label)
        return picture, style

    def terms(
        self, step: Step, picture: Tensor, style: Style, fake: Predictions, real: Predictions
    ) -> Losses:
        """The generator's losses, unweighted."""
        if self.options.stage == "style":
            terms = super().terms(step, picture, style, fake, real)
        else:
            terms = {"gan": hinge_generator(fake)}
            if self.options.diversity:
                terms["diversity"] = -(picture - self._another(step)).abs().mean()
        if "attention" in step.kept:
            terms["attention"] = step.kept.pop("attention")
        return terms

    @torch.no_grad()
    def _another(self, step: Step) -> Tensor:
        """A second picture of the same label maps, without gradient as in the published code."""
        batch, width = step.batch, self.method.options.mapping_dim
        z = draw(step.noise, "z2", len(batch), width, like=batch.image)
        return self.method.draw(self.method.encode_layout(batch), self.method.style_of(batch, z))


def attention_of_logits(maps: Sequence[Tensor], label: Tensor) -> Tensor:
    """The attention loss as the published code computes it: binary cross-entropy of the logits'
    mean over heads, averaged over stages.

    Args:
        maps: logits (B, C, h, w) of each stage.
        label: (B, H, W) int64 class ids, negative for none.
    """
    losses = [
        F.binary_cross_entropy_with_logits(x, _target(x, label)) for x in (m.float() for m in maps)
    ]
    return torch.stack(losses).mean()


def attention_of_heads(maps: Sequence[Tensor], label: Tensor) -> Tensor:
    """The attention loss as equation 6 prints it (whose sign is missing there): binary
    cross-entropy of every head's softmax over classes, averaged over classes and stages.

    Args:
        maps: logits (B, heads, C, h, w) of each stage.
        label: (B, H, W) int64 class ids, negative for none.
    """
    losses = []
    for logits in maps:
        logits = logits.float()
        inside = logits.log_softmax(2)
        target = _target(inside[:, 0], label)[:, None] > 0
        losses.append(-torch.where(target, inside, _log_outside(logits, inside)).mean())
    return torch.stack(losses).mean()


def _log_outside(logits: Tensor, inside: Tensor) -> Tensor:
    """log(1 - p) of each class, by the other classes' logits for the most probable one: where p
    rounds to 1 there are a value and a gradient too.

    Args:
        logits, inside: (B, heads, C, h, w), and their log-softmax.
    """
    first = torch.zeros_like(logits, dtype=torch.bool).scatter_(2, logits.argmax(2, True), True)
    rest = logits.masked_fill(first, -torch.inf).logsumexp(2, True) - logits.logsumexp(2, True)
    others = torch.log1p(-inside.masked_fill(first, -1.0).exp())
    return torch.where(first, rest, others)


def _target(maps: Tensor, label: Tensor) -> Tensor:
    """The label map one-hot at the size of ``maps`` (B, C, h, w)."""
    small = resize_labels_torch(label, (maps.shape[-2], maps.shape[-1]))
    return one_hot(small, maps.shape[1], maps.dtype)
