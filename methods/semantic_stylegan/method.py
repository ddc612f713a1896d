"""SemanticStyleGAN behind the common interface: photographs by inversion, edits by rows of W+."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from sisbench.core.batch import Batch
from sisbench.core.errors import UserError
from sisbench.core.label_space import LabelSpace
from sisbench.methods.base import Layout, Method, NoiseSource, Style, draw, present_classes
from sisbench.methods.key_map import KeyMap
from sisbench.methods.layers.stylegan import fir_kernel
from sisbench.methods.seeded import seeded_state
from sisbench.methods.semantic_stylegan.codes import (
    BACKGROUND_SHAPE,
    GROUPS_OF_19,
    CodesLayout,
    CodesStyle,
)
from sisbench.methods.semantic_stylegan.inversion import Inversion
from sisbench.methods.semantic_stylegan.lpips import Lpips
from sisbench.methods.semantic_stylegan.network import LR_MUL, Networks, check_kernels
from sisbench.methods.semantic_stylegan.options import SemanticStyleGANOptions
from sisbench.methods.semantic_stylegan.photographs import Inversions
from sisbench.methods.semantic_stylegan.training import SemanticStyleGANTraining

_DRAWS = 1000  # of the mean latent, at a time


class SemanticStyleGAN(Method):
    """Shi et al. 2022; a small generator for each class group, no label map at the input."""

    name = "semantic-stylegan"
    title = "SemanticStyleGAN"
    paper = (
        "Shi et al., SemanticStyleGAN: Learning Compositional Generative Priors for Controllable "
        "Image Synthesis and Editing, CVPR 2022, arXiv:2112.02236"
    )
    size = (512, 512)
    Options = SemanticStyleGANOptions
    files: ClassVar = {"g_ema": ("CelebAMask-HQ-512x512.pt", "*.pt")}
    file_options: ClassVar[frozenset[str]] = frozenset({"lpips_trunk"})
    sampling_options: ClassVar[frozenset[str]] = frozenset(
        {"groups", "truncation", "randomize_noise", "steps", "lr"}
        | {"lambda_lpips", "lambda_mse", "lambda_mean", "noise_regularize", "w_plus", "no_noises"}
        | {"finetune_steps", "mean_latent_draws", "mean_latent_seed", "lpips_trunk"}
        | {"keep_inversions"}
    )
    draws_label_maps = False
    photographs_by = "lanczos"
    options: SemanticStyleGANOptions
    net: Networks

    @classmethod
    def training(cls) -> type[SemanticStyleGANTraining]:
        """Logistic loss, R1, mask loss and path length."""
        return SemanticStyleGANTraining

    # ---- construction -------------------------------------------------------------------------

    def build(self, space: LabelSpace) -> Networks:
        """The generator; LPIPS is read when a photograph is inverted.

        Raises:
            UserError: the classes of ``space`` do not fit the generators.
        """
        o = self.options
        self.groups = _groups(o, len(space))
        self.size = (o.size, o.size)
        net = Networks(o)
        self.inversions = Inversions(net, o)
        return net

    def key_maps(self) -> Mapping[str, KeyMap]:
        """g_ema."""
        keys = KeyMap(self.net.g_ema)
        self.net.g_ema.map_keys(keys)
        return {"g_ema": keys}

    def adapt_to(self, official: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Checks the filters of resampling, which the code has built in."""
        check_kernels(official.get("g_ema", {}))

    def seeded(
        self, module: str, shapes: Mapping[str, tuple[int, ...]], seed: int
    ) -> dict[str, Tensor]:
        """Seeded weights on the scale that an equalised network expects, with the true filters."""
        state = seeded_state(shapes, seed)
        for key, value in state.items():
            if key.endswith(".kernel"):
                state[key] = fir_kernel(4.0)
            elif key.startswith("style."):
                state[key] = value / LR_MUL
            elif key.endswith((".modulation", "modulation.bias")):
                state[key] = 1 + value
            if value.ndim > 1 and key.endswith(("weight", "weights")):
                state[key] = state[key] * (value.numel() // len(value)) ** 0.5
        return state

    def after_load(self) -> None:
        """Folds the constant weights; the mean latent is that of seeded draws."""
        self.net.g_ema.render.fold()
        self.inversions.clear()
        o = self.options
        generator = torch.Generator().manual_seed(o.mean_latent_seed)
        z = torch.randn(o.mean_latent_draws, o.style_dim, generator=generator)
        with torch.inference_mode(False), torch.no_grad():
            mapped = [self.net.g_ema.style(part) for part in z.to(self.device).split(_DRAWS)]
            self.net.mean_latent = torch.cat(mapped).mean(0)

    @property
    def class_groups(self) -> tuple[int, ...]:
        """The generator of each class."""
        return self.groups

    # ---- photographs --------------------------------------------------------------------------

    def encode(self, batch: Batch) -> tuple[CodesLayout, CodesStyle]:
        """Both from one inversion of each photograph. The label map is not read, but for
        ``present`` and for what an edited map is compared with.

        Raises:
            Unavailable: the LPIPS loss has no trunk.
        """
        pairs = zip(batch.image, batch.ids, strict=True)
        found = tuple(self.invert(image, name) for image, name in pairs)
        return self.from_rows(torch.stack([f.rows for f in found]), batch, found)

    def encode_layout(self, batch: Batch) -> CodesLayout:
        """As ``encode``."""
        return self.encode(batch)[0]

    def from_rows(
        self, rows: Tensor, batch: Batch, inversions: tuple[Inversion, ...] = ()
    ) -> tuple[CodesLayout, CodesStyle]:
        """Layout and style of W+ (B, rows, D); ``batch`` gives the label maps."""
        index = self.net.g_ema.rows
        groups = torch.tensor(self.groups, device=rows.device)
        start = self.options.base_layers
        background = (groups == 0)[None, :, None]
        shapes, textures = rows[:, start::2][:, groups], rows[:, start + 1 :: 2][:, groups]
        present = present_classes(batch.label, self.num_classes)
        layout = CodesLayout(
            batch.label,
            present,
            batch.instance,
            codes=shapes.masked_fill(background, 0),
            base=rows[:, : index.base_layers],
            groups=self.groups,
            inversions=inversions,
        )
        extra = {BACKGROUND_SHAPE: shapes.masked_fill(~background, 0)}
        return layout, CodesStyle(textures, present, extra, groups=self.groups)

    def rows_of(self, layout: CodesLayout, style: Style) -> Tensor:
        """W+ (B, rows, D) of a layout and a style."""
        first = [self.groups.index(k) for k in range(self.options.seg_dim)]
        shapes, textures = layout.codes[:, first], style.codes[:, first]
        own = style.extra[BACKGROUND_SHAPE][:, first[:1]]
        shapes = torch.cat([own, shapes[:, 1:]], 1)
        pairs = torch.stack([shapes, textures], 2).flatten(1, 2)  # (B, K, 2, D) -> (B, 2K, D)
        return torch.cat([layout.base, pairs], 1)

    def invert(self, image: Tensor, name: str = "") -> Inversion:
        """What is found for one photograph (3, H, W) in [-1, 1]; see ``Inversions.find``."""
        return self.inversions.find(image, name, self.weights_info.get("sha256"), self)

    def how_encoded(self) -> str:
        """The inversion, and what is tuned."""
        o = self.options
        noise = "" if o.no_noises else ", noise maps too"
        rows = "W+" if o.w_plus else "W"
        text = f"photographs by inversion into {rows}{noise}: {o.steps} steps from the mean of "
        text += f"{o.mean_latent_draws} codes (seed {o.mean_latent_seed})"
        if o.finetune_steps:
            text += f"; the generator tuned {o.finetune_steps} steps, for reconstructions alone"
        return f"{text}; no label map is read"

    def lpips(self) -> Lpips | None:
        """See ``Inversions.lpips``."""
        return self.inversions.lpips()

    # ---- pictures -----------------------------------------------------------------------------

    def sample_style(self, batch: Batch, noise: NoiseSource) -> CodesStyle:
        """Textures of one latent code a sample, truncated; drawn as ``z`` (style_dim)."""
        w = self.latent(noise, len(batch))
        rows = w[:, None].expand(-1, self.options.rows, -1)
        return self.from_rows(rows, batch)[1]

    def latent(self, noise: NoiseSource, count: int) -> Tensor:
        """(count, D): codes of ``z``, drawn from ``noise``, towards the mean by ``truncation``."""
        mean = self.net.mean_latent
        w = self.net.g_ema.style(draw(noise, "z", count, self.options.style_dim, like=mean))
        return torch.lerp(mean.expand_as(w), w, self.options.truncation)

    def render(self, layout: Layout, style: Style, noise: NoiseSource) -> Tensor:
        """Clamped to [-1, 1]. Noise maps are the checkpoint's own, or, with ``randomize_noise``,
        drawn as ``noise_<i>`` (1, h, w)."""
        if not isinstance(layout, CodesLayout):
            raise UserError(f"{self.name} draws no label maps: encode a photograph")
        return self._generate(layout, style, noise)[0].clamp(-1, 1)

    @torch.inference_mode()
    def segmentation(self, layout: CodesLayout, style: Style, noise: NoiseSource) -> Tensor:
        """The network's own label map of what ``render`` draws: (B, s, s) int64 generator ids, s
        being the network's size."""
        return self._generate(layout, style, noise)[1].argmax(1)

    @torch.inference_mode()
    def unconditional(self, count: int, noise: NoiseSource) -> Tensor:
        """``count`` images (B, 3, size, size) in [-1, 1] of one latent code each for all rows: what
        the network draws without a photograph."""
        w = self.latent(noise, count)
        image: Tensor = self.net.g_ema(w, self._noises(noise, count, ()))[0].clamp(-1, 1)
        return image

    def _generate(
        self, layout: CodesLayout, style: Style, noise: NoiseSource
    ) -> tuple[Tensor, Tensor]:
        """Image and segmentation. A generator tuned to a photograph draws that photograph's own
        codes and nothing else."""
        rows = self.rows_of(layout, style)
        noises = self._noises(noise, len(rows), layout.inversions)
        image, seg, _ = self.net.g_ema(rows, noises)
        for i, own in enumerate(layout.inversions):
            if own.photograph is not None and torch.equal(own.rows, rows[i]):
                maps = None if noises is None else [n[i : i + 1] for n in noises]
                generator = self.inversions.tuned_to(own, self)
                image[i : i + 1], seg[i : i + 1], _ = generator(rows[i : i + 1], maps)
        return image, seg

    def _noises(
        self, noise: NoiseSource, count: int, inversions: tuple[Inversion, ...]
    ) -> list[Tensor] | None:
        """A map (B, 1, h, w) for each layer; None for the checkpoint's own."""
        sizes = self.net.g_ema.render.noise_sizes
        if self.options.randomize_noise:
            like = self.net.mean_latent
            return [
                draw(noise, f"noise_{i}", count, 1, s, s, like=like) for i, s in enumerate(sizes)
            ]
        if not inversions or any(own.noises is None for own in inversions):
            return None
        return [torch.stack([own.noises[i] for own in inversions]) for i in range(len(sizes))]  # type: ignore[index]


def _groups(options: SemanticStyleGANOptions, classes: int) -> tuple[int, ...]:
    """The generator of each class.

    Raises:
        UserError: there is no rule for so many classes, or ``groups`` leaves out a generator.
    """
    count, given = options.seg_dim, options.groups
    if given is None and classes == count:
        return tuple(range(count))
    if given is None and classes == len(GROUPS_OF_19) and count <= max(GROUPS_OF_19) + 1:
        # a smaller network than the official one: what it has no generator for is background
        return tuple(k if k < count else 0 for k in GROUPS_OF_19)
    if given is None:
        raise UserError(
            f"semantic-stylegan has {count} generators (seg_dim), the label space {classes} "
            "classes",
            "give the generator of each class as 'groups'",
        )
    if len(given) != classes or set(given) != set(range(count)):
        raise UserError(
            f"semantic-stylegan: groups must name each of the {count} generators for {classes} "
            f"classes, got {given}"
        )
    return given
