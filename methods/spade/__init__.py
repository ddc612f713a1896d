"""SPADE (GauGAN): one global style vector, layouts through spatially adaptive normalisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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

OFFICIAL_ENCODER = 256
NO_ENCODER = "no image encoder (use_vae: false): the picture follows from the label map alone"


@dataclass(frozen=True)
class SpadeOptions:
    """Construction options; None takes the official value of the label space.

    Attributes:
        label_nc, contain_dontcare_label, no_instance, semantic_nc: channels of the label map.
        ngf, nef, nhidden: width factors of generator and encoder; width of the mask branches.
        max_channels: bound on the generator's widths, for small networks (none officially).
        crop_size, aspect_ratio: width of the picture; width / height.
        num_upsampling_layers: normal, more or most.
        use_vae, z_dim: image encoder and length of its vector.
        encoder_size: side that photographs are brought to for the encoder (256 officially).
        norm_G, norm_E: norm strings of the official code.
        ade_labels: ADE20K values as the released code feeds them (as_is), or as it meant to
            (shifted: 0 becomes the last class).
    """

    label_nc: int | None = None
    contain_dontcare_label: bool | None = None
    no_instance: bool | None = None
    semantic_nc: int | None = None
    ngf: int = 64
    max_channels: int | None = None
    nef: int = 64
    nhidden: int = 128
    crop_size: int | None = None
    aspect_ratio: float | None = None
    num_upsampling_layers: str | None = None
    use_vae: bool = True
    z_dim: int = 256
    encoder_size: int = OFFICIAL_ENCODER
    norm_G: str = "spectralspadesyncbatch3x3"
    norm_E: str = "spectralinstance"
    ade_labels: str = "as_is"

    def __post_init__(self) -> None:
        NormKind.parse(self.norm_G)
        if self.norm_E not in ("spectralinstance", "instance"):
            raise ValueError(f"norm_E must be spectralinstance or instance, got {self.norm_E!r}")
        if self.num_upsampling_layers not in (None, *UPSAMPLINGS):
            raise ValueError(f"num_upsampling_layers must be one of {', '.join(UPSAMPLINGS)}")
        if self.ade_labels not in ("as_is", "shifted"):
            raise ValueError(f"ade_labels must be as_is or shifted, got {self.ade_labels!r}")
        if self.encoder_size < 8 or self.encoder_size & (self.encoder_size - 1):
            raise ValueError(f"encoder_size must be a power of two from 8 on: {self.encoder_size}")


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
