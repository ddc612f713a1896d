"""Options of INADE and the four official configurations they default to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sisbench.core.errors import UserError
from sisbench.core.label_space import LabelSpace
from sisbench.methods.layers.scam_frame import (
    FIXED,
    Frame,
    FrameOptions,
    recognise_frame,
    refuse_foreign,
)
from sisbench.methods.layers.spade import UPSAMPLINGS
from sisbench.methods.options import GAN_TRAINING, OfficialOptions


@dataclass(frozen=True)
class INADEOptions(FrameOptions):
    """Construction options, by their official names; None takes the value that the label space's
    official configuration has (ours for a space without one: one square of 256 pixels).

    Attributes:
        label_nc: classes without the don't-care one.
        contain_dontcare_label: whether one more class follows, into which label 255 falls.
        semantic_nc: classes plus the edge channel (only checked: the generator never sees edges).
        ngf: channels of the last block, and of the encoder's first.
        z_dim: length of the global noise.
        noise_nc: length of an instance's noise.
        crop_size: width of the image.
        aspect_ratio: width / height.
        num_upsampling_layers: "normal" (5), "more" (6) or "most" (7).
        use_vae: whether the instance encoder is there.
        add_sketch: the sketch branch of the journal extension.
        variant: the official network, or the one of SCAM's repository (scam), which takes
            num_labels, height, width, num_filters_last_layer and num_up_layers, and always has
            the encoder; ngf is the encoder's alone then.
    """

    official: ClassVar = OfficialOptions(
        training=(*GAN_TRAINING, "files"),
        # the official network cuts the edge channel blindly: it has to be there
        fixed={"no_instance": False, "norm_G": "spectralspadesyncbatch3x3", **FIXED},
        aliases={"noise_dim": "noise_nc"},
        finish=recognise_frame,
    )

    label_nc: int | None = None
    contain_dontcare_label: bool | None = None
    semantic_nc: int | None = None
    ngf: int = 64
    z_dim: int = 256
    noise_nc: int | None = None
    crop_size: int | None = None
    aspect_ratio: float | None = None
    num_upsampling_layers: str | None = None
    use_vae: bool = False
    add_sketch: bool = False
    variant: str = "official"

    def __post_init__(self) -> None:
        refuse_foreign(self, frozenset({"ngf", "z_dim", "noise_nc", "use_vae"}))
        if self.num_upsampling_layers not in (None, *UPSAMPLINGS):
            raise ValueError(
                f"num_upsampling_layers must be one of {', '.join(UPSAMPLINGS)}, "
                f"got '{self.num_upsampling_layers}'"
            )
        numbers = ("ngf", "z_dim", "noise_nc", "crop_size")
        for name in (*numbers, "aspect_ratio"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, got {value}")

    @property
    def encoder(self) -> bool:
        """Whether the instance encoder is there; SCAM's generator always needs its codes."""
        return self.use_vae or self.variant == "scam"


@dataclass(frozen=True)
class VINADEOptions(INADEOptions):
    """The same with the instance encoder."""

    use_vae: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.use_vae:
            raise ValueError("use_vae must be True: without the encoder the method is 'inade'")


@dataclass(frozen=True)
class Config:
    """What the networks are built from; every value is known.

    Attributes:
        classes: number of semantic classes, a don't-care class included.
        dontcare: class id that label 255 stands for, or None.
        start: (h, w) of the grid that the generator begins with.
        size: (H, W) of the image.
    """

    classes: int
    dontcare: int | None
    ngf: int
    z_dim: int
    noise_nc: int
    upsampling: str
    start: tuple[int, int]
    size: tuple[int, int]
    sketch: bool


@dataclass(frozen=True)
class _Official:
    dontcare: bool = False
    noise_nc: int = 64
    crop_size: int = 256
    aspect_ratio: float = 1.0
    upsampling: str = "normal"


_OFFICIAL = {
    "celebamask_hq": _Official(),
    "ade20k": _Official(dontcare=True),
    "cityscapes": _Official(crop_size=512, aspect_ratio=2.0, upsampling="more"),
    "deepfashion": _Official(noise_nc=8),
}


def resolve_frame(options: INADEOptions, space: LabelSpace) -> tuple[Config, Frame]:
    """The configuration of the network of SCAM's repository for ``space``, and its frame.

    Raises:
        UserError: see ``Frame.of``.
    """
    frame = Frame.of(options, space)
    config = Config(
        classes=frame.classes,
        dontcare=None,
        ngf=options.ngf,
        z_dim=options.z_dim,
        noise_nc=_or(options.noise_nc, _Official.noise_nc),
        upsampling="normal",
        start=frame.start,
        size=frame.size,
        sketch=False,
    )
    return config, frame


def resolve(options: INADEOptions, space: LabelSpace) -> Config:
    """The configuration for ``space``.

    Raises:
        UserError: the number of classes is not that of the label space, or no image size follows.
    """
    official = _OFFICIAL.get(space.name, _Official())
    dontcare = _or(options.contain_dontcare_label, official.dontcare)
    label_nc = _or(options.label_nc, len(space) - dontcare)
    classes = label_nc + dontcare
    if classes != len(space):
        raise UserError(
            f"inade: label_nc {label_nc}{' and the don’t-care class' if dontcare else ''} make "
            f"{classes} classes, the label space '{space.name}' has {len(space)}",
            "leave label_nc and contain_dontcare_label out: they follow from the label space",
        )
    if options.semantic_nc not in (None, classes + 1):
        raise UserError(
            f"inade: semantic_nc must be classes + 1 = {classes + 1}, got {options.semantic_nc}"
        )
    upsampling = _or(options.num_upsampling_layers, official.upsampling)
    factor = 2 ** UPSAMPLINGS[upsampling]
    width = _or(options.crop_size, official.crop_size) // factor
    height = round(width / _or(options.aspect_ratio, official.aspect_ratio))
    if width < 1 or height < 1:
        raise UserError(f"inade: crop_size must be at least {factor} with '{upsampling}'")
    return Config(
        classes=classes,
        dontcare=label_nc if dontcare else None,
        ngf=options.ngf,
        z_dim=options.z_dim,
        noise_nc=_or(options.noise_nc, official.noise_nc),
        upsampling=upsampling,
        start=(height, width),
        size=(height * factor, width * factor),
        sketch=options.add_sketch,
    )


def _or(value, default):  # type: ignore[no-untyped-def]
    return default if value is None else value
