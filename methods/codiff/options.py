"""CoDiff's options, and the official configurations' names for them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sisbench.core.errors import UserError
from sisbench.methods.codiff.dynamic import SCHEDULES
from sisbench.methods.options import OfficialOptions

_LEVELS: Mapping[int, tuple[int, ...]] = {256: (1, 2, 4), 512: (1, 2, 4, 4)}
_SCALES: Mapping[int, float] = {256: 0.058, 512: 0.141}


def _conditions(value: Any) -> Mapping[str, Any]:
    known = {("seg_mask",): False, ("seg_mask", "text"): True}
    if value not in known:
        raise ValueError(f"must be [seg_mask] or [seg_mask, text], got {value!r}")
    return {"text": known[value]}


def _factor(value: Any) -> Mapping[str, Any]:
    return {"seg_mask_scale_factor": 1.0 if value is None else value}


_UNET = OfficialOptions(
    own=(
        *("image_size", "in_channels", "model_channels", "attention_resolutions"),
        *("num_res_blocks", "channel_mult", "num_heads", "context_dim"),
    ),
    aliases={"out_channels": "in_channels"},
    fixed={"use_spatial_transformer": True, "transformer_depth": 1, "legacy": False},
    training=("use_checkpoint",),
)
_INFLUENCE = OfficialOptions(
    own=(
        *("image_size", "in_channels", "attention_resolutions"),
        *("num_res_blocks", "channel_mult", "num_heads", "context_dim"),
    ),
    aliases={"model_channels": "influence_channels"},
    fixed={**_UNET.fixed, "out_channels": 1},
    training=("use_checkpoint",),
)
_AUTOENCODER = OfficialOptions(
    own=("ch", "ch_mult", "z_channels"),
    aliases={"num_res_blocks": "first_stage_blocks"},
    fixed={
        "double_z": True,
        "in_channels": 3,
        "out_ch": 3,
        "attn_resolutions": (),
        "dropout": 0.0,
    },
    training=("resolution",),
)
_FIRST = OfficialOptions(
    aliases={"embed_dim": "in_channels"},
    sections={"ddconfig": _AUTOENCODER},
    training=("lossconfig",),
)


@dataclass(frozen=True)
class CoDiffOptions:
    """Options of Collaborative Diffusion; the defaults are the official ``256_mask``.

    The official configurations' own names and sections (``unet:``, ``influence_unet:``,
    ``first_stage:``, ``ddim_steps``, ...) are taken as well.

    Attributes:
        variant: 256 or 512, the published model; it gives ch_mult and scale_factor.
        text: mask and text together, by dynamic diffusers, in place of the mask alone.
        caption: with text: the caption of every sample.
        captions: with text: captions by sample id, for those that ``caption`` does not suit.
        vocabulary: with text: path of bert-base-uncased's vocab.txt.
        steps: requested DDIM steps. A number that does not divide ``timesteps`` runs some more.
        eta: 1, as all official scripts, draws noise at each step; 0 draws none after the start.
        seg_mask_schedule: decay of the mask's weight with text: none, linear_decay, cosine_decay.
        seg_mask_scale_factor: with text: what multiplies the mask's weight; 1 for nothing.
        timesteps, linear_start, linear_end: the diffusion's schedule.
        image_size, in_channels: side and channels of the latent.
        model_channels, channel_mult, num_res_blocks, attention_resolutions, num_heads: the UNets'.
        influence_channels: base width of the influence networks.
        context_dim: numbers in a token.
        mask_embed_dim: cells of the grid that the label map is reduced to.
        n_layer, vocab_size, max_seq_len: the text encoder's.
        ch, ch_mult, first_stage_blocks, z_channels: the first stage's; ch_mult None by ``variant``.
        scale_factor: of the latents; None by ``variant``.
    """

    official: ClassVar = OfficialOptions(
        aliases={
            "ddim_steps": "steps",
            "embed_dim": "in_channels",
            "n_embed": "context_dim",
            "out_channels": "in_channels",
        },
        fixed={"guidance": "none", "influence_input": "x_t", "softmax_twice": False},
        convert={"conditions": _conditions, "seg_mask_scale_factor": _factor},
        sections={
            "unet": _UNET,
            "influence_unet": _INFLUENCE,
            "first_stage": _FIRST,
            "ddconfig": _AUTOENCODER,
        },
    )

    variant: int = 256
    text: bool = False
    caption: str | None = None
    captions: Mapping[str, str] | None = None
    vocabulary: str | None = None
    steps: int = 50
    eta: float = 1.0
    seg_mask_schedule: str = "cosine_decay"
    seg_mask_scale_factor: float = 2.0
    timesteps: int = 1000
    linear_start: float = 0.0015
    linear_end: float = 0.0195
    image_size: int = 64
    in_channels: int = 3
    model_channels: int = 192
    channel_mult: tuple[int, ...] = (1, 2, 3, 5)
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (8, 4, 2)
    num_heads: int = 32
    influence_channels: int = 32
    context_dim: int = 640
    mask_embed_dim: int = 1024
    n_layer: int = 32
    vocab_size: int = 30522
    max_seq_len: int = 77
    ch: int = 128
    ch_mult: tuple[int, ...] | None = None
    first_stage_blocks: int = 2
    z_channels: int = 3
    scale_factor: float | None = None

    def __post_init__(self) -> None:
        if self.variant not in _LEVELS:
            raise UserError(f"codiff: variant must be 256 or 512, got {self.variant}")
        if self.seg_mask_schedule not in SCHEDULES:
            raise UserError(
                f"codiff: seg_mask_schedule must be {', '.join(SCHEDULES)}, "
                f"got '{self.seg_mask_schedule}'"
            )
        if self.seg_mask_scale_factor <= 0:
            raise UserError("codiff: seg_mask_scale_factor must be above 0")
        if math.isqrt(self.mask_embed_dim) ** 2 != self.mask_embed_dim:
            raise UserError(
                f"codiff: mask_embed_dim {self.mask_embed_dim} is no square grid of cells"
            )
        for name in ("model_channels", "influence_channels", "ch"):
            if getattr(self, name) % 32:
                raise UserError(f"codiff: {name} must be a multiple of 32 (32 groups a norm)")
        widths = [m * c for m in self.channel_mult
                  for c in (self.model_channels, self.influence_channels)]  # fmt: skip
        if self.num_heads < 1 or any(w % self.num_heads for w in widths):
            raise UserError("codiff: num_heads must divide every level's width")
        step = 2 ** (len(self.channel_mult) - 1)
        if self.image_size < 1 or self.image_size % step:
            raise UserError(f"codiff: image_size must be a multiple of {step}")
        if not self.text and (self.caption, self.captions, self.vocabulary) != (None, None, None):
            raise UserError(
                "codiff: caption, captions and vocabulary belong to the text branch",
                "set text: true, or leave them out",
            )

    @property
    def levels(self) -> tuple[int, ...]:
        """Multipliers of the first stage."""
        return self.ch_mult or _LEVELS[self.variant]

    @property
    def latent_scale(self) -> float:
        """Factor between the first stage's latents and the diffusion's."""
        return _SCALES[self.variant] if self.scale_factor is None else self.scale_factor

    @property
    def native(self) -> int:
        """Side of the image that the first stage decodes."""
        return self.image_size * 2 ** (len(self.levels) - 1)
