"""SPADE behind the common interface: one global style vector a photograph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from sisbench.core.batch import Batch
from sisbench.core.errors import UserError
from sisbench.core.label_space import HOLE, LabelSpace
from sisbench.methods.base import GlobalStyle, Layout, Method, NoiseSource, draw, present_classes
from sisbench.methods.key_map import KeyMap
from sisbench.methods.layers.labels import instance_edges
from sisbench.methods.layers.semantics import Semantics
from sisbench.methods.layers.spade import UPSAMPLINGS, NormKind, latent_size
from sisbench.methods.spade.network import Encoder, Generator, Networks
from sisbench.methods.spade.options import OFFICIAL_ENCODER, SpadeOptions

NO_ENCODER = "no image encoder (use_vae: false): the picture follows from the label map alone"


class SPADE(Method):
    """Park et al. 2019; with the VAE's encoder the style of a photograph is one vector."""

    name = "spade"
    title = "SPADE"
    paper = (
        "Park et al., Semantic Image Synthesis with Spatially-Adaptive Normalization, CVPR 2019, "
        "arXiv:1903.07291"
    )
    Options = SpadeOptions
    files: ClassVar = {
        "netG": ("latest_net_G.pth", "*_net_G.pth"),
        "netE": ("latest_net_E.pth", "*_net_E.pth"),
    }
    options: SpadeOptions
    net: Networks

    def build(self, space: LabelSpace) -> Networks:
        """netG, and netE with the VAE."""
        o, wide = self.options, space.name == "cityscapes"
        self.semantics = Semantics.of(
            space, o.label_nc, o.contain_dontcare_label, o.no_instance, o.semantic_nc
        )
        crop = o.crop_size or (512 if wide else 256)
        aspect = o.aspect_ratio or (2.0 if wide else 1.0)
        mode = o.num_upsampling_layers or ("more" if wide else "normal")
        start = latent_size(crop, aspect, mode)
        if min(start) < 1:
            raise UserError(f"crop_size {crop} is too small for '{mode}' upsampling")
        scale = 2 ** UPSAMPLINGS[mode]
        self.size = (start[0] * scale, start[1] * scale)
        if o.use_vae and crop < OFFICIAL_ENCODER and o.encoder_size == OFFICIAL_ENCODER:
            raise UserError(
                f"the official encoder needs crop_size >= 256, got {crop}",
                "set encoder_size to the size of your photographs, or use_vae: false",
            )
        generator = Generator(
            self.semantics,
            o.ngf,
            o.max_channels,
            o.nhidden,
            start,
            mode,
            o.z_dim if o.use_vae else None,
            NormKind.parse(o.norm_G),
        )
        return Networks(generator, Encoder(o.encoder_size, o.nef, o.z_dim) if o.use_vae else None)

    def key_maps(self) -> Mapping[str, KeyMap]:
        """netG, and netE with the VAE."""
        generator = KeyMap(self.net.netG)
        self.net.netG.map_keys(generator)
        if self.net.netE is None:
            return {"netG": generator}
        encoder = KeyMap(self.net.netE)
        self.net.netE.map_keys(encoder, self.options.norm_E.startswith("spectral"))
        return {"netG": generator, "netE": encoder}

    @property
    def num_classes(self) -> int:
        """Classes with the don't-care class."""
        return self.semantics.classes

    def cannot(self) -> Mapping[str, str]:
        """Without the VAE, everything that needs a style."""
        if self.options.use_vae:
            return {}
        return dict.fromkeys(("transfer", "interpolate_style", "sample"), NO_ENCODER)

    def encode_layout(self, batch: Batch) -> Layout:
        """The label map, 255 read as don't care.

        Raises:
            UserError: a value that is no class; instances are needed and not there.
        """
        if self.semantics.instances:
            self._instances(batch)
        shifted = self.options.ade_labels == "shifted"
        label = self.semantics.read(batch.label, 0 if shifted else None)
        return Layout(label, present_classes(label, self.num_classes), batch.instance)

    def encode_style(self, batch: Batch) -> GlobalStyle:
        """mu as codes (B, z_dim), with ``extra["logvar"]``; codes (B, 0) without the VAE."""
        present = self.encode_layout(batch).present
        if self.net.netE is None:
            return GlobalStyle(batch.image.new_zeros(len(batch), 0), present)
        mu, logvar = self.net.netE(batch.image)
        return GlobalStyle(mu, present, {"logvar": logvar})

    def sample_style(self, batch: Batch, noise: NoiseSource) -> GlobalStyle:
        """The prior N(0, 1); its draw is made by ``render``, under the name ``eps``."""
        present = self.encode_layout(batch).present
        zeros = batch.image.new_zeros(len(batch), self.options.z_dim if self.options.use_vae else 0)
        return GlobalStyle(zeros, present, {"logvar": zeros} if self.options.use_vae else {})

    def render(self, layout: Layout, style: GlobalStyle, noise: NoiseSource) -> Tensor:  # type: ignore[override]
        """z = mu + exp(logvar / 2) eps; without the VAE the style is not looked at."""
        edges = instance_edges(self._instances(layout)) if self.semantics.instances else None
        z = None
        if self.options.use_vae:
            mu, logvar = style.codes, style.extra["logvar"]
            z = mu + torch.exp(0.5 * logvar) * draw(noise, "eps", *mu.shape, like=mu)
        return self.net.netG(self._fed(layout.label), edges, z)

    def _instances(self, maps: Batch | Layout) -> Tensor:
        if maps.instance is None:
            raise UserError(
                f"{self.name} was built with instance edges and there are no instance maps",
                "set no_instance: true, or use a data set with instances",
            )
        return maps.instance

    def _fed(self, label: Tensor) -> Tensor:
        """Labels in the order of the network's channels."""
        if self.options.ade_labels == "as_is":
            return label
        shifted = torch.where(label == 0, self.semantics.label_nc, label - 1)
        return torch.where(label == HOLE, label, shifted)
