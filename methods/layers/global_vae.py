"""What SPADE and CLADE share: the image encoder of their VAE, and one global style behind the
interface."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sisbench.core.batch import Batch
from sisbench.core.errors import UserError
from sisbench.core.label_space import LabelSpace
from sisbench.methods.base import GlobalStyle, Layout, Method, NoiseSource, draw, present_classes
from sisbench.methods.key_map import KeyMap
from sisbench.methods.layers.labels import instance_edges
from sisbench.methods.layers.scam_frame import (
    FIXED,
    FRAME_FILES,
    FRAME_PREFIXES,
    Frame,
    FrameOptions,
    LabelFrameGenerator,
    recognise_frame,
    refuse_foreign,
)
from sisbench.methods.layers.semantics import Semantics
from sisbench.methods.layers.spade import (
    UPSAMPLINGS,
    NormKind,
    Step,
    generator_steps,
    latent_size,
    leaky,
)
from sisbench.methods.layers.spade_generator import SpadeGenerator
from sisbench.methods.options import GAN_TRAINING, OfficialOptions

OFFICIAL_ENCODER = 256
"""Side that the official encoder brings photographs to."""
NO_ENCODER = "no image encoder (use_vae: false): the picture follows from the label map alone"
_SHARED = frozenset({"use_vae", "z_dim", "nef", "encoder_size", "norm_E", "nhidden"})
"""Options that both variants have."""
_MINIMUM = 4
"""Side of the encoder's last features."""


class Encoder(nn.Module):
    """Photograph to mean and log-variance of its latent vector (Park et al. 2019, appendix A).

    Args:
        size: side that photographs are brought to; halved down to 4 (256 gives six stages).
        nef: channels of the first stage; they double up to 8 times that.
        z_dim: length of the latent vector.
        biased: whether a file has the convolutions' biases (instance norm takes them out again).
    """

    def __init__(self, size: int, nef: int, z_dim: int, biased: bool = False) -> None:
        super().__init__()
        self.size, self.biased = size, biased
        self.stages = (size // _MINIMUM).bit_length() - 1
        widths = [3, *(nef * min(2**i, 8) for i in range(self.stages))]
        for i in range(self.stages):
            conv = nn.Conv2d(widths[i], widths[i + 1], 3, stride=2, padding=1, bias=False)
            self.add_module(f"layer{i + 1}", conv)
        flat = widths[-1] * _MINIMUM**2
        self.fc_mu, self.fc_var = nn.Linear(flat, z_dim), nn.Linear(flat, z_dim)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """image (B, 3, H, W) in [-1, 1] -> mu, logvar (B, z_dim)."""
        size = (self.size, self.size)
        if image.shape[2:] != size:
            image = F.interpolate(image, size, mode="bilinear", align_corners=False)
        x = image
        for i in range(self.stages):
            x = leaky(F.instance_norm(getattr(self, f"layer{i + 1}")(x)))
        flat = x.flatten(1)
        return self.fc_mu(flat), self.fc_var(flat)

    def map_keys(self, keys: KeyMap, spectral: bool) -> None:
        """Cover the encoder."""
        for i in range(self.stages):
            name = f"layer{i + 1}"
            take = keys.spectral if spectral else keys.take
            take(f"{name}.weight", f"{name}.0.weight")
            if self.biased:
                keys.unused(f"{name}.0.bias", keys.shape(f"{name}.weight")[:1])
        keys.same()


class Networks(nn.Module):
    """The generator and, with the VAE, the encoder, under their official names."""

    def __init__(
        self, generator: SpadeGenerator | LabelFrameGenerator, encoder: Encoder | None
    ) -> None:
        super().__init__()
        self.netG = generator
        self.netE = encoder


@dataclass(frozen=True)
class VaeOptions(FrameOptions):
    """Construction options; None takes the official value of the label space.

    Attributes:
        label_nc, contain_dontcare_label, no_instance, semantic_nc: channels of the label map.
        ngf, nef: width factors of generator and encoder.
        max_channels: bound on the generator's widths, for small networks (none officially).
        crop_size, aspect_ratio: width of the picture; width / height.
        num_upsampling_layers: normal, more or most.
        use_vae, z_dim: image encoder and length of its vector.
        encoder_size: side that photographs are brought to for the encoder (256 officially).
        norm_G, norm_E: norm strings of the official code.
        ade_labels: ADE20K values as the released code feeds them (as_is), or as it meant to
            (shifted: 0 becomes the last class).
        variant: the official network, or the one of SCAM's repository (scam), which takes
            num_labels, height, width, num_filters_last_layer and num_up_layers.
    """

    official: ClassVar = OfficialOptions(training=GAN_TRAINING, fixed=FIXED, finish=recognise_frame)

    label_nc: int | None = None
    contain_dontcare_label: bool | None = None
    no_instance: bool | None = None
    semantic_nc: int | None = None
    ngf: int = 64
    max_channels: int | None = None
    nef: int = 64
    crop_size: int | None = None
    aspect_ratio: float | None = None
    num_upsampling_layers: str | None = None
    use_vae: bool = True
    z_dim: int = 256
    encoder_size: int = OFFICIAL_ENCODER
    norm_G: str = "spectralspadesyncbatch3x3"
    norm_E: str = "spectralinstance"
    ade_labels: str = "as_is"
    variant: str = "official"

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
        refuse_foreign(self, _SHARED)


class GlobalVae(Method):
    """A generator fed by a label map and, with the VAE, by one vector for the whole photograph.

    Subclasses make the two generators.
    """

    files: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "netG": ("latest_net_G.pth", "*_net_G.pth"),
        "netE": ("latest_net_E.pth", "*_net_E.pth"),
        **FRAME_FILES,
    }
    prefixes: Mapping[str, str] = FRAME_PREFIXES
    options: VaeOptions
    net: Networks
    semantics: Semantics

    @abstractmethod
    def make_generator(self, steps: list[Step], start: tuple[int, int]) -> SpadeGenerator:
        """The official generator for ``self.semantics``."""

    @abstractmethod
    def make_frame(self, frame: Frame) -> LabelFrameGenerator:
        """The generator of SCAM's repository."""

    def build(self, space: LabelSpace) -> Networks:
        """The generator, and the encoder with the VAE."""
        o = self.options
        if o.variant == "scam":
            return self._build_frame(space)
        wide = space.name == "cityscapes"
        self.semantics = Semantics.of(
            space, o.label_nc, o.contain_dontcare_label, o.no_instance, o.semantic_nc
        )
        crop = o.crop_size or (512 if wide else 256)
        mode = o.num_upsampling_layers or ("more" if wide else "normal")
        start = latent_size(crop, o.aspect_ratio or (2.0 if wide else 1.0), mode)
        if min(start) < 1:
            raise UserError(f"crop_size {crop} is too small for '{mode}' upsampling")
        scale = 2 ** UPSAMPLINGS[mode]
        self.size = (start[0] * scale, start[1] * scale)
        if o.use_vae and crop < OFFICIAL_ENCODER and o.encoder_size == OFFICIAL_ENCODER:
            raise UserError(
                f"the official encoder needs crop_size >= 256, got {crop}",
                "set encoder_size to the size of your photographs, or use_vae: false",
            )
        generator = self.make_generator(generator_steps(o.ngf, mode, o.max_channels), start)
        return Networks(generator, Encoder(o.encoder_size, o.nef, o.z_dim) if o.use_vae else None)

    def _build_frame(self, space: LabelSpace) -> Networks:
        o = self.options
        frame = Frame.of(o, space)
        self.size, self.semantics = frame.size, Semantics(frame.classes, False, False)
        encoder = Encoder(o.encoder_size, o.nef, o.z_dim, biased=True) if o.use_vae else None
        return Networks(self.make_frame(frame), encoder)

    def key_maps(self) -> Mapping[str, KeyMap]:
        """netG, and netE with the VAE; SCAM's repository calls them generator and encoder."""
        official = self.options.variant == "official"
        names = ("netG", "netE") if official else ("generator", "encoder")
        generator = KeyMap(self.net.netG)
        self.net.netG.map_keys(generator, self.spectral)
        if self.net.netE is None:
            return {names[0]: generator}
        encoder = KeyMap(self.net.netE)
        self.net.netE.map_keys(encoder, self.options.norm_E.startswith("spectral"))
        return {names[0]: generator, names[1]: encoder}

    @property
    def spectral(self) -> bool:
        """Whether the generator's convolutions are spectrally normalised in the file."""
        return NormKind.parse(self.options.norm_G).spectral

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
        label = layout.label
        if self.options.ade_labels == "shifted":
            label = self.semantics.shifted(label)
        return self.net.netG(label, edges, z)

    def _instances(self, maps: Batch | Layout) -> Tensor:
        if maps.instance is None:
            raise UserError(
                f"{self.name} was built with instance edges and there are no instance maps",
                "set no_instance: true, or use a data set with instances",
            )
        return maps.instance
