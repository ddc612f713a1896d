"""SCA-DM's options, and the official configurations' names for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sisbench.core.errors import UserError
from sisbench.methods.options import OfficialOptions


def _guidance(value: Any) -> Mapping[str, Any]:
    """The form of guidance, also as the official formulas write it."""
    forms = {"eps_u + scale*(eps_c-eps_u)": "code", "eps_c + scale*(eps_c-eps_u)": "paper"}
    return {"guidance": forms.get(str(value), value)}


def _image_size(value: Any) -> Mapping[str, Any]:
    """A side is the latent's, as in the section ``unet``; two are the image's."""
    return {"size" if isinstance(value, tuple) else "image_size": value}


def _latent_size(value: Any) -> Mapping[str, Any]:
    """(channels, h, w)."""
    whole = isinstance(value, tuple) and all(type(v) is int and v > 0 for v in value)
    if not whole or len(value) != 3:
        raise ValueError(f"must be three whole numbers (channels, height, width), got {value!r}")
    return {"in_channels": value[0], "latent": value[1:]}


def _finish(flat: dict[str, Any]) -> dict[str, Any]:
    """The image's size from the latent's, which says the same."""
    latent = flat.pop("latent", None)
    if latent is not None:
        levels = len(flat.get("ch_mult", SCADMOptions.ch_mult))
        size = tuple(side * 2 ** (levels - 1) for side in latent)
        if flat.setdefault("size", size) not in (None, size):
            raise ValueError(f"a latent of {latent} gives images of {size}, got {flat['size']}")
        flat["size"] = size
    return flat


_AUTOENCODER = OfficialOptions(
    own=("ch", "ch_mult", "resolution", "z_channels"),
    aliases={"num_res_blocks": "first_stage_blocks"},
    fixed={
        "double_z": False,
        "in_channels": 3,
        "out_ch": 3,
        "attn_resolutions": (),
        "dropout": 0.0,
    },
)
_UNET = OfficialOptions(
    own=(
        *("image_size", "in_channels", "model_channels", "attention_resolutions"),
        *("num_res_blocks", "channel_mult", "num_head_channels", "context_dim"),
        *("num_classes", "use_mask_attn"),
    ),
    aliases={"out_channels": "in_channels"},
    fixed={"use_spatial_transformer": True},
)
_STYLE = OfficialOptions(
    own=("num_downsample", "num_upsample", "num_feat", "output_dim"),
    aliases={"num_mask_channels": "num_classes"},
)
_FIRST = OfficialOptions(
    own=("n_embed",),
    aliases={"embed_dim": "in_channels"},
    sections={"ddconfig": _AUTOENCODER},
    training=("lossconfig",),
)


@dataclass(frozen=True)
class SCADMOptions:
    """Options of SCA-DM; the defaults are the official CelebAMask-HQ configuration.

    The official configurations' own names and sections (``unet:``, ``style_encoder:``,
    ``first_stage:``, ``ddim_steps``, ``guidance_scale``, ...) are taken as well.

    Attributes:
        steps: requested DDIM steps; 200 is the official evaluation's number. A number that does not
            divide ``timesteps`` runs some more, as there.
        scale: guidance; 1.2 is the paper's value for all tests.
        guidance: "code" reads ``scale`` as w in null + w (conditional - null), "paper" as s in
            conditional + s (conditional - null), which is w = 1 + s.
        eta: 0 draws no noise after the start.
        quantize: snap the final latent to the codebook, as the official sampling does.
        ema: use the averaged UNet of an official checkpoint (the official evaluation does, the
            demo does not).
        timesteps, linear_start, linear_end: the diffusion's schedule.
        size: (H, W) of the images; None takes ``resolution`` or ``image_size``.
        image_size: side of the latent.
        in_channels: channels of the latent.
        model_channels, channel_mult, num_res_blocks, attention_resolutions, num_head_channels,
            use_mask_attn: the UNet's.
        nhidden: channels between the label map and the scales of the UNet's norms.
        norm_groups: groups of the norms of UNet and first stage. Small networks take fewer: a norm
            of one channel a group takes the picture's mean colour out.
        context_dim: numbers in a class code: num_upsample * output_dim.
        num_classes: classes of the label map; None takes the label space's.
        num_downsample, num_upsample, num_feat, output_dim: the style encoder's.
        n_embed, z_channels, ch, ch_mult, first_stage_blocks, resolution: the first stage's.
    """

    official: ClassVar = OfficialOptions(
        training=("lossconfig", "ema_decay", "attn_loss_weight"),
        aliases={
            "ddim_steps": "steps",
            "guidance_scale": "scale",
            "num_mask_channels": "num_classes",
            "out_channels": "in_channels",
            "embed_dim": "in_channels",
        },
        fixed={
            "use_spatial_transformer": True,
            "scale_factor": 1.0,
            "null_condition": "context = 0, mask = 0",
            "betas": "linspace(sqrt(0.0015), sqrt(0.0195), 1000)**2",
        },
        convert={
            "guidance_form": _guidance,
            "image_size": _image_size,
            "latent_size": _latent_size,
        },
        sections={
            "unet": _UNET,
            "style_encoder": _STYLE,
            "first_stage": _FIRST,
            "ddconfig": _AUTOENCODER,
        },
        finish=_finish,
    )

    steps: int = 200
    scale: float = 1.2
    guidance: str = "code"
    eta: float = 0.0
    quantize: bool = True
    ema: bool = True
    timesteps: int = 1000
    linear_start: float = 0.0015
    linear_end: float = 0.0195
    size: tuple[int, int] | None = None
    image_size: int | None = None
    in_channels: int = 3
    model_channels: int = 224
    channel_mult: tuple[int, ...] = (1, 2, 3, 4)
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (8, 4, 2)
    num_head_channels: int = 32
    use_mask_attn: bool = True
    nhidden: int = 128
    norm_groups: int = 32
    context_dim: int | None = None
    num_classes: int | None = None
    num_downsample: int = 6
    num_upsample: int = 5
    num_feat: int = 4
    output_dim: int = 256
    n_embed: int = 8192
    z_channels: int = 3
    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 4)
    first_stage_blocks: int = 2
    resolution: int | None = None

    def __post_init__(self) -> None:
        if self.guidance not in ("code", "paper"):
            raise UserError(f"sca-dm: guidance must be 'code' or 'paper', got '{self.guidance}'")
        width = self.num_upsample * self.output_dim
        if self.context_dim not in (None, width):
            raise UserError(
                f"sca-dm: context_dim is {self.context_dim}, the style encoder gives {width}",
                "it is num_upsample * output_dim",
            )
        side = None if self.image_size is None else self.image_size * self.factor
        if self.resolution is not None and side not in (None, self.resolution):
            raise UserError(
                f"sca-dm: image_size {self.image_size} is a latent for images of {side}, "
                f"resolution says {self.resolution}",
                f"resolution is {self.factor} * image_size",
            )
        if self.norm_groups not in (1, 2, 4, 8, 16, 32):
            raise UserError(f"sca-dm: norm_groups must divide 32, got {self.norm_groups}")
        for name in ("model_channels", "ch"):
            if getattr(self, name) % self.norm_groups:
                raise UserError(
                    f"sca-dm: {name} must be a multiple of {self.norm_groups} "
                    f"({self.norm_groups} groups a norm)"
                )
        if self.nhidden < 1:
            raise UserError(f"sca-dm: nhidden must be positive, got {self.nhidden}")
        if any(m * self.model_channels % self.num_head_channels for m in self.channel_mult):
            raise UserError("sca-dm: num_head_channels must divide every level's width")

    @property
    def factor(self) -> int:
        """How many times smaller the latent is than the image."""
        return 2 ** (len(self.ch_mult) - 1)

    @property
    def weight(self) -> float:
        """w in null + w (conditional - null)."""
        return self.scale if self.guidance == "code" else 1 + self.scale

    @property
    def side(self) -> int:
        """Side of a square image."""
        return self.resolution or self.factor * (self.image_size or 64)
