"""SEAN behind the common interface: one style code a class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from sisbench.core.batch import Batch
from sisbench.core.errors import UserError
from sisbench.core.label_space import LabelSpace
from sisbench.core.resize import resize_labels_torch
from sisbench.methods.base import Layout, Method, NoiseSource, Style, present_classes
from sisbench.methods.key_map import KeyMap
from sisbench.methods.layers.semantics import Semantics
from sisbench.methods.layers.spade import UPSAMPLINGS, NormKind, latent_size
from sisbench.methods.sean.network import Generator, Networks
from sisbench.methods.sean.options import SeanOptions
from sisbench.methods.sean.training import SeanTraining

OFFICIAL_STYLES = 19
"""Linear layers of every ACE layer in the official code, whatever the number of classes."""


class SEAN(Method):
    """Zhu et al. 2020; a code for each class from the photograph, zero where it lacks the class."""

    name = "sean"
    title = "SEAN"
    paper = (
        "Zhu et al., SEAN: Image Synthesis with Semantic Region-Adaptive Normalization, CVPR 2020, "
        "arXiv:1911.12861"
    )
    Options = SeanOptions
    files: ClassVar = {"netG": ("latest_net_G.pth", "*_net_G.pth")}
    options: SeanOptions
    net: Networks

    @classmethod
    def training(cls) -> type[SeanTraining]:
        """Hinge, feature matching, perceptual loss."""
        return SeanTraining

    def build(self, space: LabelSpace) -> Networks:
        """netG, which holds the style encoder."""
        o = self.options
        self.semantics = Semantics.of(
            space, o.label_nc, o.contain_dontcare_label, o.no_instance, o.semantic_nc
        )
        classes = self.semantics.classes
        styles = o.num_fc_mu or max(OFFICIAL_STYLES, classes)
        if styles < classes:
            raise UserError(f"num_fc_mu is {styles} for {classes} classes", "one a class is needed")
        start = latent_size(o.crop_size, o.aspect_ratio, o.num_upsampling_layers)
        if min(start) < 1:
            raise UserError(
                f"crop_size {o.crop_size} is too small for '{o.num_upsampling_layers}' upsampling"
            )
        scale = 2 ** UPSAMPLINGS[o.num_upsampling_layers]
        self.size = (start[0] * scale, start[1] * scale)
        generator = Generator(
            classes,
            o.ngf,
            o.max_channels,
            o.nhidden,
            start,
            o.num_upsampling_layers,
            NormKind.parse(o.norm_G),
            styles,
            o.style_length,
            o.style_encoder_ngf,
        )
        return Networks(generator)

    def key_maps(self) -> Mapping[str, KeyMap]:
        """netG alone."""
        keys = KeyMap(self.net.netG)
        self.net.netG.map_keys(keys)
        return {"netG": keys}

    @property
    def num_classes(self) -> int:
        """Classes with the don't-care class."""
        return self.semantics.classes

    def encode_layout(self, batch: Batch) -> Layout:
        """The label map, 255 read as don't care.

        Raises:
            UserError: a value that is no class.
        """
        label = self.semantics.read(batch.label)
        return Layout(label, present_classes(label, self.num_classes))

    def encode_style(self, batch: Batch) -> Style:
        """Codes (B, K, style_length); ``present`` is what half the resolution still shows, as in
        the official code: smaller regions have no code."""
        label = self.semantics.read(batch.label)
        half = resize_labels_torch(label, (label.shape[1] // 2, label.shape[2] // 2))
        codes = self.net.netG.encoder(batch.image, label, self.num_classes)
        return Style(codes, present_classes(half, self.num_classes))

    def render(self, layout: Layout, style: Style, noise: NoiseSource) -> Tensor:
        """Noise of each ACE layer is drawn under ``<block>.ace_<0|1|s>`` as (1, h, w)."""
        return self.net.netG(layout.label, style.codes, noise)
