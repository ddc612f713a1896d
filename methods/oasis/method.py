"""OASIS behind the common interface: sampling alone, by noise for the whole plane or a class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from sisbench.core.batch import Batch
from sisbench.core.errors import UserError
from sisbench.core.label_space import HOLE, LabelSpace
from sisbench.methods.base import Layout, Method, NoiseSource, Style, draw, present_classes
from sisbench.methods.key_map import KeyMap
from sisbench.methods.layers.semantics import Semantics
from sisbench.methods.layers.spade import NormKind
from sisbench.methods.oasis.network import BLOCK_DOUBLINGS, Generator
from sisbench.methods.oasis.options import OasisOptions
from sisbench.methods.oasis.training import OasisTraining


class OASIS(Method):
    """Sushko et al. 2021. No encoder: a style is noise, one vector a class in ``codes`` (B, C,
    z_dim); classes can be exchanged between two draws, as the paper's local resampling does."""

    name = "oasis"
    title = "OASIS"
    paper = (
        "Sushko et al., You Only Need Adversarial Supervision for Semantic Image Synthesis, "
        "ICLR 2021, arXiv:2012.04781"
    )
    Options = OasisOptions
    files: ClassVar = {
        "netG": ("models/best_EMA.pth", "best_EMA.pth", "*_EMA.pth", "models/*_EMA.pth")
    }
    options: OasisOptions
    net: nn.ModuleDict

    @classmethod
    def training(cls) -> type[OasisTraining]:
        """A segmenting discriminator and LabelMix."""
        return OasisTraining

    def build(self, space: LabelSpace) -> nn.ModuleDict:
        """The generator; its weights are those of the running average."""
        o, wide = self.options, space.name == "cityscapes"
        self.shifted = (o.labels or ("shifted" if space.name == "coco_stuff" else "as_is")) == (
            "shifted"
        )
        classes = o.semantic_nc or len(space) + int(self.shifted)
        dontcare = o.contain_dontcare_label
        if dontcare is None:
            dontcare = self.shifted or space.name in ("ade20k", "cityscapes")
        if self.shifted and not dontcare:
            raise UserError("labels: shifted frees class 0 for unlabelled pixels", "they need it")
        self.semantics = Semantics(classes - int(dontcare), dontcare, False)
        width = (o.crop_size or (512 if wide else 256)) // BLOCK_DOUBLINGS
        height = round(width / (o.aspect_ratio or (2.0 if wide else 1.0)))
        if min(width, height) < 1:
            raise UserError(f"crop_size {o.crop_size} is too small: at least {BLOCK_DOUBLINGS}")
        self.size = (height * BLOCK_DOUBLINGS, width * BLOCK_DOUBLINGS)
        kind = NormKind(True, o.param_free_norm, o.spade_ks)
        generator = Generator(classes, o.planes, o.channels_G, (height, width), kind)
        return nn.ModuleDict({"netG": generator})

    def key_maps(self) -> Mapping[str, KeyMap]:
        """netG."""
        generator = self.net["netG"]
        assert isinstance(generator, Generator)
        keys = KeyMap(generator)
        generator.map_keys(keys)
        return {"netG": keys}

    @property
    def num_classes(self) -> int:
        """Classes with the don't-care class."""
        return self.semantics.classes

    def encode_layout(self, batch: Batch) -> Layout:
        """The label map; 255 is read as the don't-care class (class 0 of the network)."""
        label = self.semantics.read(batch.label, None if self.shifted else 0)
        return Layout(label, present_classes(label, self.num_classes), batch.instance)

    def sample_style(self, batch: Batch, noise: NoiseSource) -> Style:
        """``z`` (z_dim), the same for every class, or with ``noise_per: class`` ``z`` (C, z_dim).

        Returns:
            codes (B, C, z_dim); C x 0 without noise planes.
        """
        present = self.encode_layout(batch).present
        classes, planes = self.num_classes, self.options.planes
        if not planes:
            return Style(batch.image.new_zeros(len(batch), classes, 0), present)
        if self.options.noise_per == "class":
            return Style(draw(noise, "z", len(batch), classes, planes, like=batch.image), present)
        z = draw(noise, "z", len(batch), planes, like=batch.image)
        return Style(z[:, None].expand(-1, classes, -1), present)

    def render(self, layout: Layout, style: Style, noise: NoiseSource) -> Tensor:
        """All noise is in the style. A pixel of no class has neither class nor noise."""
        return self.net["netG"](self.fed(layout.label), self._ordered(style.codes))

    def fed(self, label: Tensor) -> Tensor:
        """(B, H, W) labels in the order of the network's channels."""
        if not self.shifted:
            return label
        moved = torch.where(label == self.semantics.label_nc, 0, label + 1)
        return torch.where(label == HOLE, label, moved)

    def _ordered(self, codes: Tensor) -> Tensor:
        return torch.cat([codes[:, -1:], codes[:, :-1]], 1) if self.shifted else codes
