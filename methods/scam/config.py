"""Options of SCAM, flat or in the sections of the official files, and what follows from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sisbench.core.errors import UserError, did_you_mean
from sisbench.core.label_space import LabelSpace

_ENCODER = (
    *("num_input_channels", "positional_embedding_dim", "num_labels", "num_latent_per_labels"),
    *("num_latents_bg", "latent_dim", "type_of_initial_latents", "attention_latent_dim"),
    *("num_blocks", "num_cross_heads", "num_self_heads", "image_conv", "reverse_conv"),
    *("conv_features_dim_first", "use_self_attention", "use_equalized_lr", "lr_mul", "use_vae"),
)
_GENERATOR = (
    *("num_filters_last_layer", "num_up_layers", "height", "width", "num_labels"),
    *("num_labels_split", "num_labels_bg", "style_dim", "kernel_size", "attention_latent_dim"),
    *("num_heads", "attention_type", "num_up_layers_with_mask_adain", "num_output_channels"),
    *("latent_pos_emb", "apply_spectral_norm", "split_latents", "norm_type", "architecture"),
    *("add_noise", "modulate", "use_equalized_lr", "lr_mul", "use_vae"),
)
_DATASET = ("height", "width", "num_labels")
_CLASSES = {"encoder": "SemanticAttentionTransformerEncoder", "generator": "SCAMGenerator"}
_FIXED = (
    *("num_input_channels", "type_of_initial_latents", "image_conv", "reverse_conv"),
    *("use_equalized_lr", "lr_mul", "use_vae", "kernel_size", "num_up_layers_with_mask_adain"),
    *("num_output_channels", "latent_pos_emb", "apply_spectral_norm", "split_latents", "norm_type"),
    *("architecture", "modulate"),
)


@dataclass(frozen=True)
class Options:
    """Construction options by their official names; None takes what the label space's official
    configuration has. The sections hold the same keys as the official files nest them; a section's
    value goes before a flat one.

    Attributes:
        num_labels: classes; checked against the label space.
        num_latent_per_labels, num_labels_split: tokens k of a class (two official names).
        num_latents_bg, num_labels_bg: tokens k0 of class 0.
        latent_dim, style_dim: width d of a token.
        attention_latent_dim: inner width a of every attention.
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
        encoder, generator, dataset: sections of the official configuration file.
        discriminator, losses, optim, trainer: its sections that only training reads.

    The other options exist in the official code with one setting that the method uses; any other
    is refused.
    """

    num_labels: int | None = None
    num_latent_per_labels: int | None = None
    num_labels_split: int | None = None
    num_latents_bg: int | None = None
    num_labels_bg: int | None = None
    latent_dim: int | None = None
    style_dim: int | None = None
    attention_latent_dim: int = 256
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
    num_input_channels: int = 3
    type_of_initial_latents: str = "learned"
    image_conv: bool = True
    reverse_conv: bool = False
    use_equalized_lr: bool = False
    lr_mul: float = 1.0
    use_vae: bool = False
    kernel_size: int = 3
    num_up_layers_with_mask_adain: int = 0
    num_output_channels: int = 3
    latent_pos_emb: str = "none"
    apply_spectral_norm: bool = False
    split_latents: bool = False
    norm_type: str = "InstanceNorm"
    architecture: str = "skip"
    modulate: bool = True
    encoder: dict = field(default_factory=dict)
    generator: dict = field(default_factory=dict)
    dataset: dict = field(default_factory=dict)
    discriminator: dict = field(default_factory=dict)
    losses: dict = field(default_factory=dict)
    optim: dict = field(default_factory=dict)
    trainer: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, known in (("encoder", _ENCODER), ("generator", _GENERATOR)):
            section = getattr(self, name)
            for key in section:
                if key not in (*known, "class"):
                    raise ValueError(f"{name}.{key} is no option; {did_you_mean(key, known)}")
            given = section.get("class", _CLASSES[name])
            if given != _CLASSES[name]:
                raise ValueError(f"{name}.class must be {_CLASSES[name]}, got {given!r}")
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        for key in _FIXED:
            for value in _all_given(self, key):
                if value != defaults[key]:
                    raise ValueError(f"{key} must be {defaults[key]!r}, got {value!r}")


def _all_given(options: Options, key: str) -> list[Any]:
    """Every value that flat options and sections hold for ``key``."""
    sections: list[Mapping[str, Any]] = [options.encoder, options.generator]
    return [getattr(options, key), *(s[key] for s in sections if key in s)]


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


def resolve(options: Options, space: LabelSpace) -> Config:
    """The configuration for ``space``.

    Raises:
        UserError: options contradict one another or the label space, or build nothing.
    """
    official = _SIZES.get(space.name, (256, 256))
    pick = _Picker(options)
    k = pick.one("tokens of a class", 8, "num_latent_per_labels", "num_labels_split")
    config = Config(
        classes=pick.one("number of classes", len(space), "num_labels"),
        k0=pick.one("tokens of class 0", k, "num_latents_bg", "num_labels_bg"),
        k=k,
        dim=pick.one("width of a token", 256, "latent_dim", "style_dim"),
        size=(pick.one("height", official[0], "height"), pick.one("width", official[1], "width")),
        encoder_attention=pick.of("encoder", "attention_latent_dim"),
        cross_heads=pick.of("encoder", "num_cross_heads"),
        self_heads=pick.of("encoder", "num_self_heads"),
        levels=pick.of("encoder", "num_blocks"),
        features=pick.of("encoder", "conv_features_dim_first"),
        position=pick.of("encoder", "positional_embedding_dim"),
        self_attention=pick.of("encoder", "use_self_attention"),
        generator_attention=pick.of("generator", "attention_latent_dim"),
        heads=pick.of("generator", "num_heads"),
        filters=pick.of("generator", "num_filters_last_layer"),
        blocks=pick.of("generator", "num_up_layers"),
        duplex=pick.of("generator", "attention_type") == "duplex",
        noise=pick.of("generator", "add_noise"),
    )
    _check(config, pick.of("generator", "attention_type"), space)
    return config


def _check(config: Config, attention_type: str, space: LabelSpace) -> None:
    if config.classes != len(space):
        raise UserError(
            f"scam: num_labels is {config.classes}, the label space '{space.name}' has "
            f"{len(space)} classes",
            "leave num_labels out: it follows from the label space",
        )
    if attention_type not in ("duplex", "simplex"):
        raise UserError(
            f"scam: attention_type must be 'duplex' or 'simplex', got {attention_type!r}"
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


class _Picker:
    """Values of options wherever they were given, with a check that they agree."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.sections: dict[str, Mapping[str, Any]] = {
            "encoder": options.encoder,
            "generator": options.generator,
            "dataset": {k: v for k, v in options.dataset.items() if k in _DATASET},
        }

    def of(self, section: str, key: str) -> Any:
        """The section's value, else the flat one."""
        return self.sections[section].get(key, getattr(self.options, key))

    def one(self, meaning: str, default: int, *keys: str) -> int:
        """The one value that all names of a quantity agree on, else ``default``."""
        found = {key: getattr(self.options, key) for key in keys}
        for name, section in self.sections.items():
            found |= {f"{name}.{key}": section[key] for key in keys if key in section}
        found = {key: value for key, value in found.items() if value is not None}
        if len(set(found.values())) > 1:
            listed = ", ".join(f"{key}={value}" for key, value in found.items())
            raise UserError(f"scam: the options contradict one another in the {meaning}: {listed}")
        return next(iter(found.values()), default)
