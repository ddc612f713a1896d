"""SDM's options, and the official scripts' names for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sisbench.core.errors import UserError
from sisbench.methods.layers.diffusion.respaced import SAMPLERS, SPACINGS
from sisbench.methods.options import OfficialOptions

_MULTIPLIERS: Mapping[int, tuple[float, ...]] = {
    512: (0.5, 1, 1, 2, 2, 4, 4),
    256: (1, 1, 2, 2, 4, 4),
    128: (1, 1, 2, 3, 4),
    64: (1, 2, 3, 4),
}
"""Official channel multipliers by image size."""


def _numbers(name: str, kind: type) -> Any:
    """A converter of ``"32,16,8"`` to numbers; an empty text says nothing."""

    def convert(value: Any) -> Mapping[str, Any]:
        if not isinstance(value, str):
            return {name: value}
        return {name: tuple(kind(v) for v in value.split(","))} if value else {}

    return convert


def _respacing(value: Any) -> Mapping[str, Any]:
    """ "50": so many steps with both ends; "ddim50": every d-th; an empty text: all."""
    text = str(value)
    if not text:
        return {}
    spacing, digits = "even", text
    if text.startswith("ddim"):
        spacing, digits = "stride", text.removeprefix("ddim")
    if not digits.isdigit():
        raise ValueError(f"must be a number of steps, as 50 or ddim50, got {value!r}")
    return {"steps": int(digits), "spacing": spacing}


def _sampler(value: Any) -> Mapping[str, Any]:
    return {"sampler": "ddim" if value else "ddpm"}


@dataclass(frozen=True)
class SDMOptions:
    """Options of SDM; the defaults are the official CelebAMask-HQ configuration.

    The official scripts' own names (``s``, ``use_ddim``, ``timestep_respacing``, ...) are taken as
    well.

    Attributes:
        steps: of ``timesteps``, how many are run.
        sampler: "ddpm" (learned variance, noise at each step) or "ddim"; None takes ddim with the
            spacing "stride", else ddpm.
        spacing: which steps are kept: "even" (both ends) or "stride" (every d-th from 0 on, the
            official "ddim50"); None takes stride for ddim, else even.
        scale: s in null + s (conditional - null), on the noise alone; up to 1 no null branch runs.
        eta: of ddim: 0 draws no noise after the start.
        timesteps: length of the schedule.
        size: (H, W) of the images; None takes ``image_size``, twice as wide for Cityscapes.
        image_size: side that the official tables of multipliers and attention go by.
        num_channels, channel_mult, num_res_blocks: the UNet's; None takes the multipliers of
            ``image_size``.
        attention_resolutions: sides at which self-attention stands, for a square of image_size.
        num_head_channels, num_heads: channels of a head; or with -1 the number of heads.
        num_classes: classes of the label map; None takes the label space's.
        no_instance: leave the channel of edges out; None: for ADE20K.
        edges: where they come from, "label" or "instance" maps; None takes instance maps for
            Cityscapes and COCO-Stuff, else the label map.
        semantic_channels: checked against the classes and edges.
        ade_labels: ADE20K's values as the official loader feeds them ("shifted": 0 becomes the last
            class, the others one less), or "as_is".
    """

    official: ClassVar = OfficialOptions(
        training=("use_checkpoint", "use_fp16", "use_kl", "rescale_learned_sigmas"),
        aliases={
            "s": "scale",
            "guidance_s": "scale",
            "diffusion_steps": "timesteps",
            "layout_channels": "semantic_channels",
        },
        fixed={
            "num_heads_upsample": -1,
            "dropout": 0.0,
            "class_cond": True,
            "use_scale_shift_norm": True,
            "resblock_updown": True,
            "use_new_attention_order": False,
            "learn_sigma": True,
            "noise_schedule": "linear",
            "predict_xstart": False,
            "rescale_timesteps": False,
        },
        convert={
            "channel_mult": _numbers("channel_mult", float),
            "attention_resolutions": _numbers("attention_resolutions", int),
            "timestep_respacing": _respacing,
            "respacing": _respacing,
            "use_ddim": _sampler,
        },
    )

    steps: int = 1000
    sampler: str | None = None
    spacing: str | None = None
    scale: float = 1.5
    eta: float = 0.0
    timesteps: int = 1000
    size: tuple[int, int] | None = None
    image_size: int = 256
    num_channels: int = 256
    channel_mult: tuple[float, ...] | None = None
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (32, 16, 8)
    num_head_channels: int = 64
    num_heads: int = 4
    num_classes: int | None = None
    no_instance: bool | None = None
    edges: str | None = None
    semantic_channels: int | None = None
    ade_labels: str = "shifted"

    def __post_init__(self) -> None:
        for name, known in (
            ("sampler", (None, *SAMPLERS)),
            ("spacing", (None, *SPACINGS)),
            ("edges", (None, "label", "instance")),
            ("ade_labels", ("shifted", "as_is")),
        ):
            value = getattr(self, name)
            if value not in known:
                words = " or ".join(f"'{k}'" for k in known if k)
                raise UserError(f"sdm: {name} must be {words}, got {value!r}")
        if not 0 <= self.eta <= 1:
            raise UserError(f"sdm: eta must be within 0..1, got {self.eta}")
        if self.channel_mult is None and self.image_size not in _MULTIPLIERS:
            raise UserError(
                f"sdm: no official multipliers for image_size {self.image_size}",
                f"give channel_mult, or one of {', '.join(map(str, sorted(_MULTIPLIERS)))}",
            )
        if any(self.image_size % r for r in self.attention_resolutions):
            raise UserError("sdm: attention_resolutions must divide image_size")
        for width in self.widths:
            if width % 32:
                raise UserError(
                    f"sdm: num_channels {self.num_channels} makes a level of {width} channels, "
                    "and a norm has 32 groups",
                    "take a multiple of 32",
                )
            if width % self.head(width):
                raise UserError(f"sdm: num_head_channels and num_heads must divide {width}")

    @property
    def multipliers(self) -> tuple[float, ...]:
        """Of the levels' widths."""
        return self.channel_mult or _MULTIPLIERS[self.image_size]

    @property
    def widths(self) -> list[int]:
        """Channels of each level."""
        return [int(m * self.num_channels) for m in self.multipliers]

    def head(self, width: int) -> int:
        """Channels of a head at a level of ``width`` channels."""
        return self.num_head_channels if self.num_head_channels > 0 else width // self.num_heads

    @property
    def ddim(self) -> bool:
        """Whether the sampler is DDIM."""
        return self.sampler == "ddim" or (self.sampler is None and self.spacing == "stride")

    @property
    def spaced(self) -> str:
        """The spacing, from the sampler where it is not given."""
        return self.spacing or ("stride" if self.ddim else "even")
