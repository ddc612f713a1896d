"""SC-GAN behind the common interface: one global style vector a photograph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from sisbench.core.batch import Batch
from sisbench.core.errors import UserError
from sisbench.core.label_space import HOLE, LabelSpace
from sisbench.core.resize import resize_labels_torch
from sisbench.methods.base import GlobalStyle, Layout, Method, NoiseSource, draw, present_classes
from sisbench.methods.key_map import KeyMap
from sisbench.methods.layers.global_vae import Encoder
from sisbench.methods.layers.semantics import Semantics
from sisbench.methods.layers.spade import NormKind, latent_size
from sisbench.methods.scgan.generator import Generator
from sisbench.methods.scgan.options import ScganOptions
from sisbench.methods.scgan.routing import Blur, Pyramid, Routing
from sisbench.methods.scgan.training import ScganTraining

NO_ENCODER = "no image encoder (use_vae: false): the picture follows from the label map alone"
NO_FILE = "no weights of the image encoder (netE) were given: nothing is read from a photograph"
_STYLED = ("reconstruct", "transfer", "shape_transfer", "interpolate_style")


class Networks(nn.Module):
    """The generator and, with the VAE, the encoder, under their official names."""

    def __init__(self, generator: Generator, encoder: Encoder | None) -> None:
        super().__init__()
        self.netG = generator
        self.netE = encoder


class SCGAN(Method):
    """Wang et al. 2021; with the VAE's encoder the style of a photograph is one vector."""

    name = "sc-gan"
    title = "SC-GAN"
    paper = "Wang et al., Image Synthesis via Semantic Composition, ICCV 2021, arXiv:2109.07053"
    size = (512, 512)
    Options = ScganOptions
    files: ClassVar = {
        "netG": ("latest_net_G.pth", "*_net_G.pth"),
        "netE": ("latest_net_E.pth", "*_net_E.pth"),
    }
    options: ScganOptions
    net: Networks
    decodes_only = False
    """Whether the generator's weights were given without the encoder's."""

    @classmethod
    def training(cls) -> type[ScganTraining]:
        """SPADE's losses and an auxiliary picture."""
        return ScganTraining

    def build(self, space: LabelSpace) -> Networks:
        """netG, and netE with the VAE; what the options leave open is that of CelebAMask-HQ at 512
        for face label maps, that of ADE20K at 256 for others."""
        o, face = self.options, space.name == "celebamask_hq"
        self.shifted = o.labels == "shifted" or (o.labels is None and face)
        self.semantics = self._semantics(space)
        self.decodes_only = False
        start = latent_size(o.crop_size or (512 if face else 256), o.aspect_ratio, "normal")
        if min(start) < 1:
            raise UserError(f"crop_size {o.crop_size} is too small: at least 32")
        self.size = (start[0] * 32, start[1] * 32)
        position = face if o.position is None else o.position
        every_level = face if o.pyr_pos is None else o.pyr_pos
        blur = Blur(o.ig_sz, o.ig_sigma, o.ig_iter, o.ig_relative) if position else None
        rng = (4 if face else 5) if o.pyr_rng is None else o.pyr_rng
        pyramid = Pyramid(self.semantics.classes, blur, every_level, rng)
        experts = (o.num_experts_conv, o.num_experts_norm or (3 if face else 4))
        ngf = o.ngf or (48 if face else 32)
        generator = Generator(
            Routing(pyramid, o.nrf, experts),
            ngf,
            o.nff,
            start,
            o.z_dim if self.vae else None,
            NormKind(o.spectral, o.norm, 3),
            o.temperature,
        )
        encoder = Encoder(256, o.nef or ngf, o.z_dim) if self.vae else None
        return Networks(generator, encoder)

    def _semantics(self, space: LabelSpace) -> Semantics:
        o = self.options
        label_nc, dontcare = o.label_nc, o.contain_dontcare_label
        if self.shifted:  # the background becomes the don't-care class
            dontcare = True if dontcare is None else dontcare
            label_nc = len(space) - 1 if label_nc is None else label_nc
            if not dontcare:
                raise UserError("labels: shifted makes the background the don't-care class")
        return Semantics.of(space, label_nc, dontcare, True, o.semantic_nc)

    def adapt_to(self, official: Mapping[str, Mapping[str, Tensor]]) -> None:
        """A generator alone is taken too: it samples."""
        self.decodes_only = self.vae and "netE" not in official and "netG" in official
        if self.decodes_only:
            self.net.netE = None

    def key_maps(self) -> Mapping[str, KeyMap]:
        """netG, and netE with the VAE."""
        generator, routed = KeyMap(self.net.netG), self.options.no_spectral_on_routing
        if routed is None:
            routed = self.space.name == "celebamask_hq"
        self.net.netG.map_keys(generator, not routed)
        if self.net.netE is None:
            return {"netG": generator}
        encoder = KeyMap(self.net.netE)
        self.net.netE.map_keys(encoder, self.options.norm_E.startswith("spectral"))
        return {"netG": generator, "netE": encoder}

    @property
    def vae(self) -> bool:
        """Whether the style of a photograph is read; before a label space is known, as for
        faces."""
        space = getattr(self, "space", None)
        face = space is None or space.name == "celebamask_hq"
        return face if self.options.use_vae is None else self.options.use_vae

    @property
    def num_classes(self) -> int:
        """Classes with the don't-care class."""
        return self.semantics.classes

    def cannot(self) -> Mapping[str, str]:
        """Without the VAE, everything that needs a style; without its weights, all but sampling."""
        if not self.vae:
            return dict.fromkeys(("transfer", "interpolate_style", "sample"), NO_ENCODER)
        return dict.fromkeys(_STYLED, NO_FILE) if self.decodes_only else {}

    def encode_layout(self, batch: Batch) -> Layout:
        """The label map; 255 is read as the don't-care class, which in face label maps is the
        background.

        Raises:
            UserError: a value that is no class.
        """
        label = self.semantics.read(batch.label, 0 if self.shifted else None)
        return Layout(label, present_classes(label, self.num_classes), batch.instance)

    def encode_style(self, batch: Batch) -> GlobalStyle:
        """mu as codes (B, z_dim), with ``extra["logvar"]``; codes (B, 0) without the VAE."""
        present = self.encode_layout(batch).present
        if not self.vae:
            return GlobalStyle(batch.image.new_zeros(len(batch), 0), present)
        if self.net.netE is None:
            self._require("reconstruct")
        assert self.net.netE is not None
        mu, logvar = self.net.netE(batch.image)
        return GlobalStyle(mu, present, {"logvar": logvar})

    def sample_style(self, batch: Batch, noise: NoiseSource) -> GlobalStyle:
        """The prior N(0, 1); its draw is made by ``render``, under the name ``eps``."""
        present = self.encode_layout(batch).present
        zeros = batch.image.new_zeros(len(batch), self.options.z_dim if self.vae else 0)
        return GlobalStyle(zeros, present, {"logvar": zeros} if self.vae else {})

    def render(self, layout: Layout, style: GlobalStyle, noise: NoiseSource) -> Tensor:  # type: ignore[override]
        """z = mu + exp(logvar / 2) eps; without the VAE the style is not looked at."""
        z = None
        if self.vae:
            mu, logvar = style.codes, style.extra["logvar"]
            z = mu + torch.exp(0.5 * logvar) * draw(noise, "eps", *mu.shape, like=mu)
        return self.net.netG(self.fed(layout.label), z)

    def fed(self, label: Tensor) -> Tensor:
        """Labels in the order of the network's channels, at the picture's size (PIL's nearest rule
        picks the same pixels as torch's where the factor is whole)."""
        label = resize_labels_torch(label, self.size)
        if not self.shifted:
            return label
        moved = torch.where(label == 0, self.semantics.label_nc, label - 1)
        return torch.where(label == HOLE, label, moved)
