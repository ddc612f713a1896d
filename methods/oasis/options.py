"""Options of OASIS and what its official option files say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sisbench.methods.options import OfficialOptions


@dataclass(frozen=True)
class OasisOptions:
    """Construction options; None takes the official value of the label space.

    Attributes:
        semantic_nc: classes, the don't-care class among them.
        contain_dontcare_label: whether class 0 of the network stands for unlabelled pixels.
        channels_G: width factor.
        z_dim: noise planes that are joined to the label map.
        no_3dnoise: without noise planes; one picture a label map then.
        crop_size, aspect_ratio: width of the picture; width / height.
        param_free_norm: syncbatch, batch or instance.
        spade_ks: kernel of the mask branches, odd.
        labels: as_is, or shifted: network class = label value + 1 (COCO-Stuff's own loader).
        noise_per: ``image`` draws one vector for the whole plane, as the official test does;
            ``class`` draws one for each class (the paper's local resampling).
    """

    official: ClassVar = OfficialOptions(fixed={"num_res_blocks": 6})

    semantic_nc: int | None = None
    contain_dontcare_label: bool | None = None
    channels_G: int = 64
    z_dim: int = 64
    no_3dnoise: bool = False
    crop_size: int | None = None
    aspect_ratio: float | None = None
    param_free_norm: str = "syncbatch"
    spade_ks: int = 3
    labels: str | None = None
    noise_per: str = "image"

    def __post_init__(self) -> None:
        if self.labels not in (None, "as_is", "shifted"):
            raise ValueError(f"labels must be as_is or shifted, got {self.labels!r}")
        if self.noise_per not in ("image", "class"):
            raise ValueError(f"noise_per must be image or class, got {self.noise_per!r}")
        if self.param_free_norm not in ("syncbatch", "batch", "instance"):
            raise ValueError(
                f"param_free_norm must be syncbatch, batch or instance: {self.param_free_norm!r}"
            )
        if self.spade_ks < 1 or self.spade_ks % 2 == 0:
            raise ValueError(f"spade_ks must be odd, got {self.spade_ks}")
        for name in ("channels_G", "z_dim", "semantic_nc", "crop_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be positive, got {value}")

    @property
    def planes(self) -> int:
        """Noise planes that the network takes."""
        return 0 if self.no_3dnoise else self.z_dim
