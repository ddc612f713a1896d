"""SCA-DM's options, and the official configurations' names for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sisbench.core.errors import UserError, did_you_mean

_FORMS = {
    "eps_u + scale*(eps_c-eps_u)": "code",
    "eps_c + scale*(eps_c-eps_u)": "paper",
}
_ALIASES = {
    "ddim_steps": "steps",
    "guidance_scale": "scale",
    "guidance_form": "guidance",
    "num_mask_channels": "num_classes",
    "out_channels": "in_channels",
    "embed_dim": "in_channels",
}
_AUTOENCODER = {
    "ch": "ch",
    "ch_mult": "ch_mult",
    "num_res_blocks": "first_stage_blocks",
    "resolution": "resolution",
    "z_channels": "z_channels",
}
_FIXED: dict[str, Any] = {
    "use_spatial_transformer": True,
    "scale_factor": 1.0,
    "null_condition": "context = 0, mask = 0",
    "betas": "linspace(sqrt(0.0015), sqrt(0.0195), 1000)**2",
}
_FIXED_AUTOENCODER: dict[str, Any] = {
    "double_z": False,
    "in_channels": 3,
    "out_ch": 3,
    "attn_resolutions": [],
    "dropout": 0.0,
}
_TRAINING = ("lossconfig", "ema_decay", "attn_loss_weight")
_UNET = (
    "image_size",
    "in_channels",
    "out_channels",
    "model_channels",
    "attention_resolutions",
    "num_res_blocks",
    "channel_mult",
    "num_head_channels",
    "use_spatial_transformer",
    "context_dim",
    "num_classes",
    "use_mask_attn",
)
_STYLE = ("num_downsample", "num_upsample", "num_feat", "num_mask_channels", "output_dim")
_FIRST = ("embed_dim", "n_embed", "ddconfig", "lossconfig")
_SECTIONS: dict[str, tuple[str, ...]] = {
    "unet": _UNET,
    "style_encoder": _STYLE,
    "first_stage": _FIRST,
}


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
        context_dim: numbers in a class code: num_upsample * output_dim.
        num_classes: classes of the label map; None takes the label space's.
        num_downsample, num_upsample, num_feat, output_dim: the style encoder's.
        n_embed, z_channels, ch, ch_mult, first_stage_blocks, resolution: the first stage's.
    """

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
        for name in ("model_channels", "ch"):
            if getattr(self, name) % 32:
                raise UserError(f"sca-dm: {name} must be a multiple of 32 (32 groups a norm)")
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


def flatten(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options by our names, from official configurations, sections and all.

    Raises:
        UserError: a name given twice with different values, a fixed quantity with another value, or
            an unknown name within a section.
    """
    flat: dict[str, Any] = {}
    for key, value in given.items():
        if key in _SECTIONS and isinstance(value, Mapping):
            for inner, v in value.items():
                if inner not in _SECTIONS[key]:
                    hint = did_you_mean(inner, _SECTIONS[key])
                    raise UserError(f"sca-dm: {key} has no option '{inner}'", hint)
                _put(flat, inner, v)
        else:
            _put(flat, key, value)
    return flat


def _put(flat: dict[str, Any], key: str, value: Any) -> None:
    if key in _TRAINING:  # they change no image
        return
    if key == "ddconfig":
        for inner, v in value.items():
            if inner in _FIXED_AUTOENCODER:
                _check(f"ddconfig.{inner}", v, _FIXED_AUTOENCODER[inner])
            elif inner in _AUTOENCODER:
                _set(flat, _AUTOENCODER[inner], v)
            else:
                hint = did_you_mean(inner, [*_AUTOENCODER, *_FIXED_AUTOENCODER])
                raise UserError(f"sca-dm: ddconfig has no option '{inner}'", hint)
    elif key in _FIXED:
        _check(key, value, _FIXED[key])
    elif key == "image_size" and not isinstance(value, int):
        _set(flat, "size", value)
    elif key == "latent_size":
        _set(flat, "in_channels", value[0])
    else:
        if key == "guidance_form":
            value = _FORMS.get(str(value), value)
        _set(flat, _ALIASES.get(key, key), value)


def _check(key: str, value: Any, only: Any) -> None:
    value = list(value) if isinstance(value, tuple) else value
    if value != only:
        raise UserError(f"sca-dm: {key} is {only!r} in the trained networks, got {value!r}")


def _set(flat: dict[str, Any], key: str, value: Any) -> None:
    value = tuple(value) if isinstance(value, list) else value
    if key in flat and flat[key] != value:
        raise UserError(f"sca-dm: {key} is given as {flat[key]!r} and as {value!r}", "give it once")
    flat[key] = value
