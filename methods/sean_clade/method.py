"""SEAN-CLADE behind the common interface: one style code a class, layouts through tables."""

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
from sisbench.methods.layers.labels import region_means
from sisbench.methods.layers.region_style import StyleEncoder
from sisbench.methods.layers.scam_frame import FRAME_FILES, FRAME_PREFIXES, Frame
from sisbench.methods.layers.semantics import Semantics
from sisbench.methods.sean_clade.network import ENCODER_NAMES, Generator, Networks
from sisbench.methods.sean_clade.options import SeanCladeOptions
from sisbench.methods.sean_clade.training import SeanCladeTraining


class SEANCLADE(Method):
    """Tan et al. 2021 describe it, Dufour et al. 2022 coded it; a code for each class from the
    photograph, zero where it lacks the class."""

    name = "sean-clade"
    title = "SEAN-CLADE"
    paper = (
        "Tan et al., Efficient Semantic Image Synthesis via Class-Adaptive Normalization, TPAMI "
        "2021, arXiv:2012.04644; code: Dufour et al., SCAM!, ECCV 2022, arXiv:2210.04883"
    )
    Options = SeanCladeOptions
    files: ClassVar[Mapping[str, tuple[str, ...]]] = FRAME_FILES
    prefixes: Mapping[str, str] = FRAME_PREFIXES
    options: SeanCladeOptions
    net: Networks

    @classmethod
    def training(cls) -> type[SeanCladeTraining]:
        """Hinge, feature matching and perceptual loss."""
        return SeanCladeTraining

    def build(self, space: LabelSpace) -> Networks:
        """Encoder and generator."""
        o, frame = self.options, Frame.of(self.options, space)
        for name, given, value in zip(
            ("small_h", "small_w"), (o.small_h, o.small_w), frame.start, strict=True
        ):
            if given not in (None, value):
                raise UserError(f"{name} is {given}, but height and width make it {value}")
        self.size, self.semantics = frame.size, Semantics(frame.classes, False, False)
        encoder = StyleEncoder(o.encoder_first_filters, o.style_dim, norm_last=True)
        return Networks(encoder, Generator(frame, o.style_dim))

    def key_maps(self) -> Mapping[str, KeyMap]:
        """generator and encoder."""
        generator, encoder = KeyMap(self.net.generator), KeyMap(self.net.encoder)
        self.net.generator.map_keys(generator, self.options.apply_spectral_norm)
        self.net.encoder.map_keys(encoder, "", ENCODER_NAMES)
        return {"generator": generator, "encoder": encoder}

    @property
    def num_classes(self) -> int:
        """Classes of the label map, each a style region."""
        return self.semantics.classes

    def encode_layout(self, batch: Batch) -> Layout:
        """The label map.

        Raises:
            UserError: a value that is no class.
        """
        label = self.semantics.read(batch.label)
        return Layout(label, present_classes(label, self.num_classes))

    def encode_style(self, batch: Batch) -> Style:
        """Codes (B, K, style_dim); ``present`` is what half the resolution still shows: smaller
        regions have no code."""
        label = self.semantics.read(batch.label)
        features = self.net.encoder.features(batch.image)
        small = resize_labels_torch(label, (features.shape[2], features.shape[3]))
        codes = region_means(features, small, self.num_classes)
        return Style(codes, present_classes(small, self.num_classes))

    def render(self, layout: Layout, style: Style, noise: NoiseSource) -> Tensor:
        """Noise of each modulation is drawn under ``SEANCLADE_block_<i>.mod_<res|0|1>`` as
        (1, h, w)."""
        return self.net.generator(layout.label, style.codes, noise)
