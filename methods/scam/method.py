"""SCAM behind the common interface: several tokens a class, subject transfer, attention maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sisbench.core.batch import Batch
from sisbench.core.errors import UserError
from sisbench.core.label_space import LabelSpace
from sisbench.methods.base import Layout, Method, NoiseSource, Style, present_classes
from sisbench.methods.key_map import KeyMap
from sisbench.methods.layers.labels import read_labels
from sisbench.methods.scam.encoder import Encoder
from sisbench.methods.scam.generator import Generator, Modulation
from sisbench.methods.scam.options import Config, SCAMOptions, resolve
from sisbench.methods.scam.regions import Regions
from sisbench.methods.scam.training import ScamTraining

_OFFICIAL = {"query": "q_linear", "key": "v_linear", "value": "k_linear", "out": "out.0"}
"""Parts of names; the official checkpoint stores keys under v_linear, values under k_linear."""


class Networks(nn.Module):
    """Encoder and generator."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.generator = Generator(config)


class SCAM(Method):
    """SCAM: each class has k tokens; pixels attend the tokens of their class and the other way
    round.

    Noise: ``block<b>.0`` and ``block<b>.1``, (1, h, w) at the size of each modulation.
    """

    name = "scam"
    title = "SCAM"
    paper = (
        "Dufour et al., SCAM! Transferring humans between images with Semantic Cross Attention "
        "Modulation, ECCV 2022, arXiv:2210.04883"
    )
    Options = SCAMOptions
    net: Networks
    files: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "encoder": ("last.ckpt", "*.ckpt"),
        "generator": ("last.ckpt", "*.ckpt"),
    }
    prefixes: Mapping[str, str] = {"encoder": "encoder.", "generator": "generator."}

    @classmethod
    def training(cls) -> type[ScamTraining]:
        """Hinge, L1 and perceptual loss."""
        return ScamTraining

    def build(self, space: LabelSpace) -> Networks:
        """The networks in the official configuration of ``space``, or as the options say."""
        self.config = resolve(self.options, space)
        self.size = self.config.size
        return Networks(self.config)

    def key_maps(self) -> Mapping[str, KeyMap]:
        """Official names; the files' analytic buffers are expected and dropped."""
        maps = {"encoder": KeyMap(self.net.encoder), "generator": KeyMap(self.net.generator)}
        for module, key_map in maps.items():
            for ours in getattr(self.net, module).state_dict():
                key_map.take(ours, _official_name(ours))
            key_map.optional(r"(inv_freq|latents_mask)$")
        config, encoder, generator = self.config, maps["encoder"], maps["generator"]
        encoder.unused("latents_mask", (1, config.tokens, config.tokens))
        widths = [config.position, *(config.features * 2**i for i in range(1, config.levels))]
        for i, width in enumerate(widths):
            encoder.unused(f"image_pos_embs.{i}.inv_freq", (width // 4,))
        for name, module in self.net.generator.named_modules():
            if isinstance(module, Modulation):
                key = f"{_official_name(name)}.feature_map_pos_encoding.inv_freq"
                generator.unused(key, (module.mlp_lti_gamma.in_features // 4,))
        return maps

    def encode_layout(self, batch: Batch) -> Layout:
        """The label map.

        Raises:
            UserError: a label outside of [-1, C).
        """
        hint = f"the label space is '{self.space.name}'"
        label = read_labels(batch.label, self.num_classes, hint=hint)
        return Layout(label, present_classes(label, self.num_classes), batch.instance)

    def encode_style(self, batch: Batch) -> Style:
        """Tokens (B, C, M, d), M = max(k0, k), zero where a class has fewer. A class that the
        photograph lacks has tokens too: they read the whole picture."""
        layout = self.encode_layout(batch)
        regions = Regions(layout.label, self.num_classes)
        tokens = self.net.encoder(batch.image, regions)
        return Style(self.net.encoder.index.by_class(tokens), layout.present)

    def render(self, layout: Layout, style: Style, noise: NoiseSource) -> Tensor:
        """The photograph. Every class's tokens matter a little everywhere: the layer norms run over
        all of them.

        Raises:
            UserError: the style's codes have another shape than this configuration's.
        """
        return self._generate(layout, style, noise)[0]

    @torch.inference_mode()
    def attention_maps(self, layout: Layout, style: Style, noise: NoiseSource) -> Tensor:
        """How much each pixel attends each token of its class in the last modulation (Figure 4 of
        the paper colours pixels by the largest).

        Returns:
            (B, heads, M, H, W) float32 in [0, 1], summing to 1 over M; 0 in holes, whose pixels
            attend all tokens of all classes alike.
        """
        _, weight, regions = self._generate(layout, style, noise)
        maps = regions.blocks(self.size).scatter(weight.flatten(3)).unflatten(1, self.size)
        maps = maps.permute(0, 3, 1, 2).unflatten(1, weight.shape[3:])
        hole = regions.ranks == regions.classes.shape[1]  # at the label map's size
        hole = F.interpolate(hole[:, None].float(), size=self.size) > 0
        return maps.masked_fill(hole[:, None], 0)

    def _generate(
        self, layout: Layout, style: Style, noise: NoiseSource
    ) -> tuple[Tensor, Tensor, Regions]:
        index = self.net.generator.index
        expected = (len(layout.label), *index.valid.shape, self.config.dim)
        if tuple(style.codes.shape) != expected:
            raise UserError(
                f"scam: codes must be {expected}, got {tuple(style.codes.shape)}",
                "styles of another configuration or batch cannot be drawn",
            )
        regions = Regions(layout.label, self.num_classes)
        tokens = index.flat(style.codes)
        image, weight = self.net.generator(layout.label, regions, tokens, noise)
        return image, weight, regions


def _official_name(ours: str) -> str:
    """The name in the official files of one of our tensors or modules."""
    parts = [_OFFICIAL.get(part, part) for part in ours.split(".")]
    if parts[0] == "convs":
        parts.insert(2, "0")
    elif parts[0] == "blocks":
        parts[:2] = ["backbone", f"SCAM_block_{parts[1]}"]
        if parts[2] in ("conv_0", "conv_1"):
            parts.insert(3, "1")
    return ".".join(parts)
