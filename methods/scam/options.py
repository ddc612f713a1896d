"""Options of SCAM, flat or in the sections of the official files, and what follows from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sisbench.core.errors import UserError
from sisbench.core.label_space import LabelSpace
from sisbench.methods.options import OfficialOptions

_FIXED = {
    "num_input_channels": 3,
    "type_of_initial_latents": "learned",
    "image_conv": True,
    "reverse_conv": False,
    "use_equalized_lr": False,
    "lr_mul": 1.0,
    "use_vae": False,
    "kernel_size": 3,
    "num_up_layers_with_mask_adain": 0,
    "num_output_channels": 3,
    "latent_pos_emb": "none",
    "apply_spectral_norm": False,
    "split_latents": False,
    "norm_type": "InstanceNorm",
    "architecture": "skip",
    "modulate": True,
}
"""What the official code has as options with one setting that the method uses."""
_ALIASES = {
    "num_labels_split": "num_latent_per_labels",
    "num_labels_bg": "num_latents_bg",
    "style_dim": "latent_dim",
}
_ENCODER = OfficialOptions(
    own=(
        *("num_labels", "num_latent_per_labels", "num_latents_bg", "latent_dim"),
        *("positional_embedding_dim", "attention_latent_dim", "num_blocks", "num_cross_heads"),
        *("num_self_heads", "conv_features_dim_first", "use_self_attention"),
    ),
    fixed={
        **{key: _FIXED[key] for key in ("num_input_channels", "type_of_initial_latents")},
        **{key: _FIXED[key] for key in ("image_conv", "reverse_conv", "use_equalized_lr")},
        **{key: _FIXED[key] for key in ("lr_mul", "use_vae")},
        "class": "SemanticAttentionTransformerEncoder",
    },
)
_GENERATOR = OfficialOptions(
    own=(
        *("num_labels", "height", "width", "num_filters_last_layer", "num_up_layers"),
        *("num_heads", "attention_type", "add_noise"),
    ),
    aliases={**_ALIASES, "attention_latent_dim": "generator_attention_latent_dim"},
    fixed={
        **{key: value for key, value in _FIXED.items() if key not in _ENCODER.fixed},
        **{key: _FIXED[key] for key in ("use_equalized_lr", "lr_mul", "use_vae")},
        "class": "SCAMGenerator",
    },
)


def _dataset(section: Any) -> Mapping[str, Any]:
    """What a data set's section says of the networks; the rest is its paths and loading."""
    if not isinstance(section, Mapping):
        raise ValueError(f"is a section of options, got {section!r}")
    return {key: section[key] for key in ("height", "width", "num_labels") if key in section}


@dataclass(frozen=True)
class SCAMOptions:
    """Construction options by their official names; None takes what the label space's official
    configuration has. The official files' sections ``encoder``, ``generator`` and ``dataset`` are
    read too.

    Attributes:
        num_labels: classes; checked against the label space.
        num_latent_per_labels: tokens k of a class.
        num_latents_bg: tokens k0 of class 0.
        latent_dim: width d of a token.
        attention_latent_dim: inner width a of the encoder's attentions.
        generator_attention_latent_dim: of the generator's; None takes the encoder's.
        positional_embedding_dim: position channels beside the photograph.
        num_blocks: levels of the encoder's pyramid.
        num_cross_heads, num_self_heads, num_heads: heads of encoder and generator.
        conv_features_dim_first: 2 ** i times this is the width of pyramid level i.
        use_self_attention: False gives row (iii) of the paper's Table 2.
        attention_type: "duplex", or "simplex" for row (v): tokens pass an MLP instead of
            attending to the pixels.
        num_filters_last_layer: width of the generator's last block.
        num_up_layers: number of blocks.
        height, width: size of the image.
        add_noise: whether the modulations add noise maps.
    """

    official: ClassVar = OfficialOptions(
        training=("discriminator", "losses", "optim", "trainer"),
        fixed=_FIXED,
        aliases=_ALIASES,
        sections={"encoder": _ENCODER, "generator": _GENERATOR},
        convert={"dataset": _dataset},
    )

    num_labels: int | None = None
    num_latent_per_labels: int | None = None
    num_latents_bg: int | None = None
    latent_dim: int | None = None
    attention_latent_dim: int = 256
    generator_attention_latent_dim: int | None = None
    positional_embedding_dim: int = 40
    num_blocks: int = 7
    num_cross_heads: int = 1
    num_self_heads: int = 1
    num_heads: int = 1
    conv_features_dim_first: int = 16
    use_self_attention: bool = True
    attention_type: str = "duplex"
    num_filters_last_layer: int = 64
    num_up_layers: int = 6
    height: int | None = None
    width: int | None = None
    add_noise: bool = True

    def __post_init__(self) -> None:
        if self.attention_type not in ("duplex", "simplex"):
            raise ValueError(
                f"attention_type must be 'duplex' or 'simplex', got {self.attention_type!r}"
            )


@dataclass(frozen=True)
class Config:
    """What the networks are built from; every value is known.

    Attributes:
        classes, k0, k: number of classes, tokens of class 0, tokens of every other class.
        dim: width of a token.
        size: (H, W) of the image.
    """

    classes: int
    k0: int
    k: int
    dim: int
    size: tuple[int, int]
    encoder_attention: int
    cross_heads: int
    self_heads: int
    levels: int
    features: int
    position: int
    self_attention: bool
    generator_attention: int
    heads: int
    filters: int
    blocks: int
    duplex: bool
    noise: bool

    @property
    def tokens(self) -> int:
        """T = k0 + (classes - 1) k."""
        return self.k0 + (self.classes - 1) * self.k

    @property
    def start(self) -> tuple[int, int]:
        """(h, w) of the grid that the generator begins with."""
        (height, width), factor = self.size, 2**self.blocks
        if width < height:
            columns = width // factor
            return round(columns * height / width), columns
        rows = height // factor
        return rows, round(rows * height / width)  # the official rule, meant for squares


_SIZES = {"celebamask_hq": (256, 256), "ade20k": (256, 256), "idesigner": (256, 170)}


def resolve(options: SCAMOptions, space: LabelSpace) -> Config:
    """The configuration for ``space``.

    Raises:
        UserError: options contradict the label space, or build nothing.
    """
    o = options
    height, width = _SIZES.get(space.name, (256, 256))
    k = 8 if o.num_latent_per_labels is None else o.num_latent_per_labels
    inner = o.generator_attention_latent_dim
    config = Config(
        classes=len(space) if o.num_labels is None else o.num_labels,
        k0=k if o.num_latents_bg is None else o.num_latents_bg,
        k=k,
        dim=256 if o.latent_dim is None else o.latent_dim,
        size=(
            height if o.height is None else o.height,
            width if o.width is None else o.width,
        ),
        encoder_attention=o.attention_latent_dim,
        cross_heads=o.num_cross_heads,
        self_heads=o.num_self_heads,
        levels=o.num_blocks,
        features=o.conv_features_dim_first,
        position=o.positional_embedding_dim,
        self_attention=o.use_self_attention,
        generator_attention=o.attention_latent_dim if inner is None else inner,
        heads=o.num_heads,
        filters=o.num_filters_last_layer,
        blocks=o.num_up_layers,
        duplex=o.attention_type == "duplex",
        noise=o.add_noise,
    )
    _check(config, space)
    return config


def _check(config: Config, space: LabelSpace) -> None:
    if config.classes != len(space):
        raise UserError(
            f"scam: num_labels is {config.classes}, the label space '{space.name}' has "
            f"{len(space)} classes",
            "leave num_labels out: it follows from the label space",
        )
    for name, value in dataclasses.asdict(config).items():
        if isinstance(value, int) and not isinstance(value, bool) and value < 1:
            raise UserError(f"scam: '{name}' must be positive, got {value}")
    pairs = (
        (config.encoder_attention, config.cross_heads),
        (config.encoder_attention, config.self_heads),
        (config.generator_attention, config.heads),
    )
    if any(width % heads for width, heads in pairs):
        raise UserError("scam: attention_latent_dim must be a multiple of the number of heads")
    if config.position % 4 or config.filters % 4 or 2 * config.features % 4:
        raise UserError("scam: widths that carry position codes must be multiples of 4")
    if min(config.start) < 1:
        raise UserError(
            f"scam: {config.size} is too small for num_up_layers {config.blocks}",
            f"the shorter side must be at least {2**config.blocks}",
        )
