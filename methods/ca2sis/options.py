"""Options of CA2-SIS and what its official option files say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sisbench.methods.options import GAN_TRAINING, OfficialOptions


def _multi_scale(value: Any) -> Mapping[str, Any]:
    """The official opposite of ``sean_style_encoder``; None is left open."""
    if value is None:
        return {}
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, got {value!r}")
    return {"sean_style_encoder": not value}


@dataclass(frozen=True)
class CA2SISOptions:
    """Construction options; the defaults are the official configuration of the label space.

    Attributes:
        label_nc: classes without the don't-care channel; None takes them from the label space.
        contain_dontcare_label: one more channel, for value 255 (ADE20K: for class 150); None is
            True for ade20k alone.
        exclude_bg: no mask embedding for class 0; None is True for celebamask_hq alone.
        ade_labels: ADE20K values as the published code feeds them (as_is), or as it meant to
            (shifted: class k in channel k - 1, class 0 in the don't-care channel).
        style_dim: numbers a class and resolution.
        style_enc_feat_dim: features a class after the style encoder's first layer.
        mapping_dim: width of the noise in the diversity mode (256 before January 2024).
        noise_encoder: whether there is a mapping network; None is True but for the ablations.
        tanh: tanh at the output; None is True, but False for the ablations and for a checkpoint
            without mapping network, whose code had none.
        ds_mode: "cityscapes" draws images twice as wide as high; None follows the label space.
        resolution: height of the images, a multiple of 64 (official: 256).
        channels: before the generator's first stage and after each; every stage but the first
            doubles the size, so n numbers begin at resolution / 2**(n - 2) [ours].
        heads, head_dim: of the attentions, even; half of each in the last stage [ours].
        mask_side: side that label maps are reduced to before they are embedded [ours].
        style_levels: resolutions of the style encoder [ours].
        mapping_width: inner width of the mapping network [ours].
        no_embedding, sean_style_encoder, no_group_conv, no_cross_attention: ablations of Table 3;
            the last one is ours (SPADE normalisation by the style map), as none was released.
    """

    official: ClassVar = OfficialOptions(
        training=(*GAN_TRAINING, "att_loss"),  # the network is the same with and without that loss
        fixed={"ngf": 32},
        convert={"multi_scale_style_enc": _multi_scale},
    )

    label_nc: int | None = None
    contain_dontcare_label: bool | None = None
    exclude_bg: bool | None = None
    ade_labels: str = "as_is"
    style_dim: int = 256
    style_enc_feat_dim: int = 4
    mapping_dim: int = 16
    noise_encoder: bool | None = None
    tanh: bool | None = None
    ds_mode: str | None = None
    resolution: int = 256
    channels: tuple[int, ...] = (512, 256, 128, 64, 32, 32)
    heads: int = 8
    head_dim: int = 64
    mask_side: int = 128
    style_levels: int = 5
    mapping_width: int = 512
    no_embedding: bool = False
    sean_style_encoder: bool = False
    no_group_conv: bool = False
    no_cross_attention: bool = False

    def __post_init__(self) -> None:
        counts = ("style_dim", "style_enc_feat_dim", "mapping_dim", "label_nc")
        for name in (*counts, "mask_side", "style_levels", "mapping_width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if min(self.heads, self.head_dim) < 2 or self.heads % 2 or self.head_dim % 2:
            raise ValueError(f"heads and head_dim must be even, got {self.heads}, {self.head_dim}")
        if len(self.channels) < 2 or min(self.channels) < 1:
            raise ValueError(f"channels must be two numbers or more, got {self.channels}")
        if self.style_levels > 5:
            raise ValueError(f"style_levels must be at most 5, got {self.style_levels}")
        if self.resolution < 64 or self.resolution % 64:
            raise ValueError(f"resolution must be a multiple of 64, got {self.resolution}")
        if self.resolution % 2 ** (len(self.channels) - 2):
            raise ValueError(
                f"channels: {len(self.channels)} numbers double the size too often for "
                f"resolution {self.resolution}"
            )
        if self.ds_mode not in (None, "celeba", "ade20k", "cityscapes", "deepfashion", "custom"):
            raise ValueError(
                "ds_mode must be celeba, ade20k, cityscapes, deepfashion or custom, "
                f"got {self.ds_mode!r}"
            )
        if self.ade_labels not in ("as_is", "shifted"):
            raise ValueError(f"ade_labels must be as_is or shifted, got {self.ade_labels!r}")
        if self.sean_style_encoder and (self.no_group_conv or self.noise_encoder):
            raise ValueError("sean_style_encoder goes with neither no_group_conv nor noise_encoder")

    @property
    def ablation(self) -> bool:
        """Whether this is a network of the older code (no mapping network, no tanh)."""
        return self.no_embedding or self.sean_style_encoder or self.no_group_conv
