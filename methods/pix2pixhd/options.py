"""Construction options of Pix2PixHD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sisbench.methods.options import GAN_TRAINING, OfficialOptions


@dataclass(frozen=True)
class Pix2PixHDOptions:
    """Construction options; None takes the value that follows from the label space.

    Attributes:
        label_nc, no_instance: classes, and whether there is no channel of instance edges.
        label_feat, instance_feat: features averaged over classes, or over instances (the default
            where there are instance maps); both False: no encoder.
        feat_num: features a pixel; 0: no encoder.
        ngf, nef: width factors of generator and encoder.
        netG: global, or local (the two-stage generator of high resolutions; ngf 32 officially).
        n_downsample_global, n_blocks_global: halvings and residual blocks of the global part.
        n_blocks_local: residual blocks of the local generator's one enhancer.
        n_downsample_E: halvings of the encoder.
        crop_size, aspect_ratio: width of the picture; width / height.
        clusters: file of cluster centres to sample from (``Clusters.save``).
    """

    official: ClassVar = OfficialOptions(
        training=GAN_TRAINING, fixed={"norm": "instance", "n_local_enhancers": 1}
    )

    label_nc: int | None = None
    no_instance: bool | None = None
    label_feat: bool | None = None
    instance_feat: bool | None = None
    feat_num: int = 3
    ngf: int = 64
    nef: int = 16
    netG: str = "global"
    n_downsample_global: int = 4
    n_blocks_global: int = 9
    n_blocks_local: int = 3
    n_downsample_E: int = 4
    crop_size: int | None = None
    aspect_ratio: float | None = None
    clusters: str | None = None

    def __post_init__(self) -> None:
        if self.netG not in ("global", "local"):
            raise ValueError(f"netG must be global or local, got {self.netG!r}")
        if self.label_feat and self.instance_feat:
            raise ValueError("label_feat and instance_feat exclude one another")
        if self.feat_num < 0:
            raise ValueError(f"feat_num must not be negative, got {self.feat_num}")
        positive = ("ngf", "nef", "n_downsample_global", "n_downsample_E")
        for name in (*positive, "n_blocks_global", "n_blocks_local"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

    @property
    def encoded(self) -> bool:
        """Whether there are features."""
        return self.feat_num > 0 and not (self.label_feat is False and self.instance_feat is False)

    def by_label(self, instances: bool) -> bool:
        """Whether features are averaged over classes; ``instances``: the data has instance maps."""
        if self.label_feat is not None:
            return self.label_feat
        return not instances if self.instance_feat is None else not self.instance_feat
