"""INADE (noise only) and V-INADE (with its instance encoder) behind the common interface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from sisbench.core.batch import Batch
from sisbench.core.errors import UserError
from sisbench.core.label_space import LabelSpace
from sisbench.core.tasks import method_tasks
from sisbench.methods.base import Layout, Method, NoiseSource, Style, draw, present_classes
from sisbench.methods.inade.encoder import Encoder
from sisbench.methods.inade.generator import Condition, Generator, ScamGenerator
from sisbench.methods.inade.options import (
    Config,
    INADEOptions,
    VINADEOptions,
    resolve,
    resolve_frame,
)
from sisbench.methods.inade.segments import (
    Segments,
    class_segments,
    dense_rank,
    find_segments,
)
from sisbench.methods.inade.style import InstanceStyle, SketchLayout, prior_style, style_of_slots
from sisbench.methods.key_map import KeyMap
from sisbench.methods.layers.labels import read_labels
from sisbench.methods.layers.scam_frame import FRAME_FILES, FRAME_PREFIXES, Frame

_MAX_SLOTS = 256  # official instance maps are 8-bit files of dense ranks
_NEEDS_ENCODER = tuple(task.name for task in method_tasks() if "style" in task.needs)


class Networks(nn.Module):
    """``netG`` and, with the encoder, ``netE``."""

    def __init__(self, config: Config, encoder: bool, frame: Frame | None = None) -> None:
        super().__init__()
        self.netG = Generator(config) if frame is None else ScamGenerator(frame, config)
        if encoder:
            self.netE = Encoder(config.noise_nc, config.ngf)


class INADE(Method):
    """INADE: the generator alone, its instances drawn from the prior.

    Noise: ``global`` (z_dim) and ``instance`` (K, 2, noise_nc), slot k for instance id k of the
    instance map; without one, for the k-th of the sample's classes in ascending order; in the
    variant of SCAM's repository for class k.
    """

    name = "inade"
    title = "INADE"
    paper = (
        "Tan et al., Diverse Semantic Image Synthesis via Probability Distribution Modeling, "
        "CVPR 2021, arXiv:2103.06878"
    )
    Options = INADEOptions
    net: Networks
    files: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "netG": ("best_net_G.pth", "latest_net_G.pth", "*_net_G.pth"),
        "netE": ("best_net_E.pth", "best_net_IE.pth", "latest_net_E.pth", "*_net_E.pth"),
        **FRAME_FILES,
    }
    prefixes: Mapping[str, str] = FRAME_PREFIXES

    @property
    def num_classes(self) -> int:
        """Classes that the networks have."""
        return self.config.classes

    def build(self, space: LabelSpace) -> Networks:
        """The networks in the official configuration of ``space``, or as the options say."""
        if self.options.variant == "scam":
            self.config, frame = resolve_frame(self.options, space)
            self.size = self.config.size
            return Networks(self.config, True, frame)
        self.config = resolve(self.options, space)
        self.size = self.config.size
        return Networks(self.config, self.options.use_vae)

    def key_maps(self) -> Mapping[str, KeyMap]:
        """Official names, with the spectral norm of the blocks' convolutions folded; SCAM's
        repository calls the networks generator and encoder."""
        generator = KeyMap(self.net.netG)
        if isinstance(self.net.netG, ScamGenerator):
            self.net.netG.map_keys(generator, spectral=True)
            encoder = KeyMap(self.net.netE)
            encoder.same()
            return {"generator": generator, "encoder": encoder}
        for name, _ in self.net.netG.named_modules():
            if name.endswith((".conv_0", ".conv_1", ".conv_s")):
                generator.spectral(f"{name}.weight")
        generator.same()
        maps = {"netG": generator}
        if self.options.use_vae:
            maps["netE"] = KeyMap(self.net.netE)
            maps["netE"].same()
        return maps

    def cannot(self) -> Mapping[str, str]:
        """Without the encoder nothing can be read from a photograph; with the sketch branch no data
        set has the input."""
        if self.options.add_sketch:
            reason = "the sketch branch needs a sketch, which no data set of the harness brings"
            return dict.fromkeys((*_NEEDS_ENCODER, "sample"), reason)
        if not self.options.encoder:
            reason = "INADE without its encoder has no style of a photograph; V-INADE has one"
            return dict.fromkeys(_NEEDS_ENCODER, reason)
        return {}

    def encode_layout(self, batch: Batch) -> SketchLayout:
        """The label map and instance map, checked; label 255 becomes the don't-care class. SCAM's
        variant has no instance maps.

        Raises:
            UserError: a label outside of [-1, C), or a negative instance id.
        """
        label = self._labels(batch)
        instance = None if self.options.variant == "scam" else batch.instance
        if instance is not None:
            if int(instance.min()) < 0:
                raise UserError("instance ids must be 0 or more", "use a dense rank of the objects")
            wide = instance.flatten(1).amax(1) >= _MAX_SLOTS  # a sample's own affair: (B,)
            if bool(wide.any()):
                ranks, _ = dense_rank(instance, int(instance.max()) + 1)
                instance = torch.where(wide[:, None, None], ranks, instance)
        return SketchLayout(label, present_classes(label, self.num_classes), instance)

    def _segments(self, layout: Layout) -> Segments:
        """Those of the label map and instance map; SCAM's repository knows classes alone."""
        if self.options.variant == "scam":
            return class_segments(layout.label, self.num_classes)
        return find_segments(layout.label, layout.instance, self.num_classes)

    @property
    def _like(self) -> Tensor:
        return next(self.net.netG.parameters())

    def _labels(self, batch: Batch) -> Tensor:
        hint = f"the label space is '{self.space.name}'"
        return read_labels(batch.label, self.num_classes, self.config.dontcare, hint)

    @torch.inference_mode()
    def encode_style(self, batch: Batch) -> InstanceStyle:
        """Statistics of the photograph's instances. Without the encoder every style is the prior,
        whatever the photograph: ``can`` then claims no task that would read one.

        Raises:
            UserError: the image's sides are no multiples of 16.
        """
        if not self.options.encoder:
            return prior_style(
                self._like,
                present_classes(self._labels(batch), self.num_classes),
                self.config.noise_nc,
            )
        if batch.image.shape[2] % 16 or batch.image.shape[3] % 16:
            raise UserError(
                f"{self.name}: the sides of the image must be multiples of 16, got "
                f"{tuple(batch.image.shape[2:])}"
            )
        layout = self.encode_layout(batch)
        label, ids = layout.label, layout.instance
        if ids is None:
            segments = self._segments(layout)
            slots, ids = segments.num_slots, segments.index
            ids = ids.masked_fill(label < 0, -1)
        else:
            slots = int(ids.max()) + 1
        mu, logvar = self.net.netE(batch.image, ids, slots)
        return style_of_slots(
            label, ids, mu, logvar, self.num_classes, instances=layout.instance is not None
        )

    def sample_style(self, batch: Batch, noise: NoiseSource) -> InstanceStyle:
        """The prior N(0, I) of every class; the draw itself happens in ``render``."""
        present = torch.ones(
            len(batch), self.num_classes, dtype=torch.bool, device=batch.label.device
        )
        return prior_style(self._like, present, self.config.noise_nc)

    @torch.inference_mode()
    def render(self, layout: Layout, style: Style, noise: NoiseSource) -> Tensor:
        """noise * exp(logvar / 2) + mu of each instance, then the generator.

        Raises:
            UserError: the style is not of this method, or the sketch branch lacks its sketch.
        """
        if not isinstance(style, InstanceStyle):
            raise UserError(
                f"{self.name}.render needs an InstanceStyle, got {type(style).__name__}"
            )
        sketch = layout.sketch if isinstance(layout, SketchLayout) else None
        if self.options.add_sketch != (sketch is not None):
            raise UserError(
                "a sketch goes with add_sketch and add_sketch with a sketch",
                "give it as dataclasses.replace(layout, sketch=sketch)",
            )
        config, batch = self.config, len(layout.label)
        like = style.codes
        segments = self._segments(layout)
        drawn = draw(noise, "instance", batch, segments.num_slots, 2, config.noise_nc, like=like)
        row = torch.arange(batch, device=like.device)[:, None]
        mu, logvar = style.of(layout, segments)
        used = torch.addcmul(mu, drawn[row, segments.slots], torch.exp(0.5 * logvar))
        start = draw(noise, "global", batch, config.z_dim, like=like)
        return self.net.netG(start, Condition(segments, used, sketch))


class VINADE(INADE):
    """V-INADE: INADE with the encoder that reads the noise of each instance from a photograph."""

    name = "v-inade"
    title = "V-INADE"
    Options = VINADEOptions
