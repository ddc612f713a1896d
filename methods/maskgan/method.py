"""MaskGAN behind the common interface: one global style, the generator's AdaIN parameters."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor, nn

from sisbench.core.batch import Batch
from sisbench.core.errors import Unavailable, UserError
from sisbench.core.label_space import HOLE, LabelSpace
from sisbench.methods.base import GlobalStyle, Layout, Method, NoiseSource, present_classes
from sisbench.methods.key_map import KeyMap
from sisbench.methods.layers.labels import read_labels
from sisbench.methods.maskgan.network import Blender, Generator
from sisbench.methods.maskgan.options import MaskganOptions
from sisbench.methods.maskgan.training import MaskganTraining
from sisbench.methods.maskgan.vae import MaskVAE


class Networks(nn.Module):
    """The generator, and what belongs to training where a state dict of it was given."""

    def __init__(self, generator: Generator, blender: Blender | None, vae: MaskVAE | None) -> None:
        super().__init__()
        self.netG = generator
        self.netB = blender
        self.netVAE = vae


class MaskGAN(Method):
    """Lee et al. 2020: the label map is drawn in the style of a (photograph, label map) pair."""

    name = "maskgan"
    title = "MaskGAN"
    paper = (
        "Lee et al., MaskGAN: Towards Diverse and Interactive Facial Image Manipulation, "
        "CVPR 2020, arXiv:1907.11922"
    )
    size = (512, 512)
    Options = MaskganOptions
    files: ClassVar = {
        "netG": ("latest_net_G.pth", "*_net_G.pth"),
        "netB": ("latest_net_B.pth", "*_net_B.pth"),
        "netVAE": ("latest_net_VAE.pth", "*_net_VAE.pth"),
    }
    options: MaskganOptions
    net: Networks

    @classmethod
    def training(cls) -> type[MaskganTraining]:
        """Least squares on pictures and on blended edits."""
        return MaskganTraining

    def build(self, space: LabelSpace) -> Networks:
        """netG; netB and netVAE come with ``load_state``."""
        o = self.options
        self.size = o.size
        self.classes = o.label_nc or len(space)
        if self.classes < len(space):
            raise UserError(f"label_nc {self.classes} is less than the {len(space)} of the space")
        generator = Generator(self.classes, o.ngf, o.n_downsample_global, o.n_blocks_global)
        return Networks(generator, None, None)

    def adapt_to(self, official: Mapping[str, Mapping[str, Tensor]]) -> None:
        """The blender and the MaskVAE are built where their state dicts are given."""
        o = self.options
        self.net.netB = self.net.netVAE = None
        if "netB" in official:
            self.net.netB = Blender(ngf=o.B_ngf)
        if "netVAE" in official:
            self.net.netVAE = MaskVAE(self.classes, o.vae_ngf, o.vae_ngf, o.vae_latent)
        self.net.to(self.device).eval().requires_grad_(False)

    def key_maps(self) -> Mapping[str, KeyMap]:
        """netG, and netB and netVAE where they were given."""
        maps = {"netG": KeyMap(self.net.netG)}
        self.net.netG.map_keys(maps["netG"])
        for name in ("netB", "netVAE"):
            module = getattr(self.net, name)
            if module is not None:
                maps[name] = KeyMap(module)
                maps[name].same()
        return maps

    @property
    def num_classes(self) -> int:
        """Classes of the network."""
        return self.classes

    def encode_layout(self, batch: Batch) -> Layout:
        """The label map.

        Raises:
            UserError: a value that is no class.
        """
        label = self._read(batch.label)
        return Layout(label, present_classes(label, self.classes), batch.instance)

    def encode_style(self, batch: Batch) -> GlobalStyle:
        """The AdaIN parameters (B, 16384) of the photograph and its label map: block by block and
        layer by layer, biases, then scales."""
        label = self._read(batch.label)
        codes = self.net.netG.encode(batch.image, label)
        return GlobalStyle(codes, present_classes(label, self.classes))

    def render(self, layout: Layout, style: GlobalStyle, noise: NoiseSource) -> Tensor:  # type: ignore[override]
        """Deterministic: no noise is drawn."""
        return self.net.netG.draw(layout.label, style.codes)

    @torch.inference_mode()
    def blend(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Two renderings (B, 3, H, W) in [-1, 1] to one, and the alpha map in [0, 1].

        Raises:
            Unavailable: no weights of the blender were loaded (none are public).
        """
        if self.net.netB is None:
            raise Unavailable("MaskGAN: no weights of the blender (netB) were given")
        return self.net.netB.blend(first, second)

    def _read(self, label: Tensor) -> Tensor:
        hint = "check the label space and the option label_nc"
        label = read_labels(label, self.classes, hint=hint)
        return demo_labels(label) if self.options.demo_labels else label


def demo_labels(label: Tensor) -> Tensor:
    """What the published demo makes of label values 0..255; holes stay -1.

    It divides by 255 and then by 1/255 in float32 and truncates: 7, 13, 14 and 15 become the class
    before.
    """
    table = _demo_table().to(label.device)
    return torch.where(label == HOLE, label, table[label.clamp_min(0)])


@lru_cache(maxsize=1)
def _demo_table() -> Tensor:
    values = torch.arange(256, dtype=torch.float32)
    return (values / 255 / torch.tensor(1 / 255, dtype=torch.float32)).long()
