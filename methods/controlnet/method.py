"""ControlNet behind the common interface: a sampler of photographs for a coloured label map."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sisbench.core.batch import Batch
from sisbench.core.errors import UserError
from sisbench.core.file_hash import sha256_of
from sisbench.core.label_space import HOLE, LabelSpace
from sisbench.core.resize import resize_labels_pil
from sisbench.core.state_dict import joined_hash, read_metadata
from sisbench.core.unset import require_set
from sisbench.methods.base import GlobalStyle, Layout, Method, NoiseSource, draw, present_classes
from sisbench.methods.controlnet.folders import Folders, contents
from sisbench.methods.controlnet.library import library
from sisbench.methods.controlnet.networks import (
    build_parts,
    drawn_sizes,
    known_keys,
    latent_factor,
    load_parts,
    require_match,
)
from sisbench.methods.controlnet.options import PARTS, SECTIONS, ControlNetOptions
from sisbench.methods.controlnet.palettes import BLACK, palette
from sisbench.methods.controlnet.prompts import token_ids
from sisbench.methods.controlnet.scheduler import make_scheduler
from sisbench.methods.key_map import KeyMap
from sisbench.methods.layers.labels import UNLABELLED, read_labels

_NO_FACES = (
    "the ControlNet of the papers' face tables was trained by their authors, weights not "
    "published; give a folder of your own, or seeded:0 to test the code alone"
)


class ControlNet(Method):
    """Stable Diffusion, frozen, with a trained copy of its encoder that reads the label map in
    colours; any segmentation ControlNet in diffusers' layout, ControlNet++ too.

    It reads no photographs: samples differ by their noise alone. The same prompt, none by default,
    serves every sample, never a caption of the true image.
    """

    name = "controlnet"
    title = "ControlNet"
    paper = (
        "Zhang et al., Adding Conditional Control to Text-to-Image Diffusion Models, ICCV 2023, "
        "arXiv:2302.05543"
    )
    Options = ControlNetOptions
    files: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "a pipeline": ("model_index.json and its folders, controlnet/ among them",),
        "or a ControlNet": ("config.json, diffusion_pytorch_model.safetensors; needs base",),
    }
    sampling_options = frozenset(
        {"steps", "guidance", "strength", "eta", "prompt", "negative_prompt", "scheduler"}
        | {"palette", "size", "resolution", "tokenizer"}
    )
    file_options = frozenset({"base", "palette", "tokenizer"})
    options: ControlNetOptions
    net: nn.ModuleDict

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._given: ControlNetOptions = self.options
        self._parts: dict[str, nn.Module] | None = None
        self._trained = False

    # ---- construction -------------------------------------------------------------------------

    def build(self, space: LabelSpace) -> nn.ModuleDict:
        """The networks, by the names of their folders.

        Raises:
            Unavailable: diffusers is not installed.
            UserError: networks, sizes, steps or colours that do not fit one another.
        """
        library(), library("transformers")
        if self.options.base is not None:
            self._adopt(Folders.find(None, Path(self.options.base)))
        o = self.options
        if self._trained and o.palette is None and space.name != "ade20k":
            raise UserError(
                f"controlnet: no palette is given for '{space.name}'; the public networks know "
                "ADE20K's colours alone",
                "with a ControlNet that was trained on it: palette: space, or a file of colours",
            )
        if space.name != "ade20k":
            self.weights_hint = _NO_FACES
        self.colours = palette(o.palette, space)
        given = {part: getattr(o, part) for part in PARTS}
        parts = self._parts or build_parts({k: v for k, v in given.items() if v is not None})
        require_match(parts)
        make_scheduler(o.scheduler, o.steps, o.eta, torch.device("cpu"))
        if o.tokenizer is not None:  # a folder that is still to be read may bring one
            for prompt in (o.prompt, o.negative_prompt):
                token_ids(prompt, o.tokenizer, parts["text_encoder"])
        self.size, self.resolution = drawn_sizes(o, parts)
        return nn.ModuleDict(parts)

    def key_maps(self) -> Mapping[str, KeyMap]:
        """The networks, each with its own names of its tensors."""
        maps = {part: KeyMap(self.net[part]) for part in PARTS}
        for keys in maps.values():
            keys.same()
        return maps

    def load(
        self, space: LabelSpace | str, weights: Path | str | None, device: str = "cpu"
    ) -> ControlNet:
        """As ``Method.load``; ``weights`` is a folder: a pipeline with a ControlNet, or, with the
        option ``base``, a ControlNet alone.

        Raises:
            Unavailable: a folder is not there.
            UserError: it holds something else, or parts that do not fit.
        """
        self.options, self._parts, self._trained = self._given, None, False
        path = None if weights is None or str(weights).startswith("seeded:") else Path(weights)
        if path is None or not self.check_weights(path):
            return super().load(space, weights, device)
        library(), library("transformers")
        found = self._found(path)
        self._parts = load_parts(found)
        self.setup(space)
        self._parts = None
        require_set(self.net, str(path))
        files = {name: (f.name, sha256_of(f)) for name, f in found.files().items()}
        self.weights_info = {
            "source": "diffusers",
            "files": {k: {"name": name, "sha256": sha} for k, (name, sha) in files.items()},
            "sha256": joined_hash({k: sha for k, (_, sha) in files.items()}),
        }
        return self.to(device)

    def check_weights(self, path: Path) -> bool:
        """See ``Loadable.check_weights``: the folders, which say what the networks are. False for a
        file of sisbench's own."""
        if path.is_file() and read_metadata(path):
            return False
        self._adopt(self._found(path))
        self._trained = True
        return True

    @classmethod
    def files_in(cls, folder: Path) -> dict[str, Path]:
        """The files of a pipeline's, a ControlNet's or a tokenizer's folder."""
        return contents(folder)

    def _found(self, path: Path) -> Folders:
        return Folders.find(path, Path(self._given.base) if self._given.base else None)

    def _adopt(self, folders: Folders) -> None:
        """Take the configurations of the folders, and forget where the base model lies.

        Raises:
            UserError: a configuration is given beside them.
        """
        found = folders.configs()
        for part in PARTS:
            if part in found and getattr(self._given, part) is not None:
                raise UserError(
                    f"controlnet: {part} is read from {folders.parts[part]}", "leave it out"
                )
            if part in found:  # files of older and newer libraries have keys that say nothing here
                known = known_keys(part)
                found[part] = {k: v for k, v in found[part].items() if k in known}
        if "scheduler" in found:
            found["scheduler"] |= self._given.scheduler or {}
        tokenizer = self._given.tokenizer or folders.parts.get("tokenizer")
        changes: dict[str, Any] = {k: found[k] for k in SECTIONS if k in found}
        changes |= {"base": None, "tokenizer": None if tokenizer is None else str(tokenizer)}
        self.options = replace(self.options, **changes)

    # ---- the contract -------------------------------------------------------------------------

    def encode_layout(self, batch: Batch) -> Layout:
        """The label map itself; 255 is a pixel of no class where the label space has one.

        Raises:
            UserError: a label outside of the classes.
        """
        label = batch.label
        if self.space.ignore is not None:
            nothing = self.space.ignore if self.space.ignore < self.num_classes else HOLE
            label = label.masked_fill(label == UNLABELLED, nothing)
        label = read_labels(label, self.num_classes)
        return Layout(label, present_classes(label, self.num_classes))

    def sample_style(self, batch: Batch, noise: NoiseSource) -> GlobalStyle:
        """The prompt's embedding (B, length * width), and under "negative" the other prompt's where
        guidance needs it: the variety comes from the noise of ``render``."""
        present = self.encode_layout(batch).present
        o, count = self.options, len(batch)
        codes = self.encode_text(self._ids(o.prompt)).expand(count, -1)
        extra = {}
        if o.two_passes:
            negative = self.encode_text(self._ids(o.negative_prompt))
            extra["negative"] = negative.expand(count, -1)
        return GlobalStyle(codes, present, extra)

    def encode_text(self, ids: Tensor) -> Tensor:
        """Codes (B, length * width) of a style from ids (B, length) int64 of prompts."""
        encoder: Any = self.net["text_encoder"]
        return encoder(ids.to(self.device))[0].flatten(1)

    @torch.inference_mode()
    def render(self, layout: Layout, style: GlobalStyle, noise: NoiseSource) -> Tensor:  # type: ignore[override]
        """(B, 3, H, W) in [-1, 1]: the scheduler's steps, the decoder, the reduction to ``size``.

        Noise: ``x_T`` of the latent's shape; with eta > 0 also ``step<i>`` of the same shape, i
        counting the steps from 0.
        """
        *_, latent = self.trajectory(layout, style, noise)
        return self.decode(latent)

    def trajectory(
        self, layout: Layout, style: GlobalStyle, noise: NoiseSource
    ) -> Iterator[Tensor]:
        """The latent after each step, (B, D, h, w)."""
        o, control = self.options, self.conditioning(layout.label)
        unet: Any = self.net["unet"]
        factor = latent_factor(self.net["vae"])
        shape = (unet.config.in_channels, *(side // factor for side in self.resolution))
        batch = len(control)
        prompts = style.codes.unflatten(1, (-1, unet.config.cross_attention_dim))
        if o.guidance > 1 and "negative" in style.extra:  # its half comes first
            prompts = torch.cat([style.extra["negative"].view_as(prompts), prompts])
        control = control.repeat(len(prompts) // batch, 1, 1, 1)
        scheduler = make_scheduler(o.scheduler, o.steps, o.eta, control.device)
        x = draw(noise, "x_T", batch, *shape, like=control) * scheduler.init_noise_sigma
        for i, t in enumerate(scheduler.timesteps):
            given = {}
            if o.eta > 0:
                variance = draw(noise, f"step{i}", batch, *shape, like=control)
                given = {"eta": o.eta, "variance_noise": variance}
            scaled = scheduler.scale_model_input(x, t)
            predicted = self.predict(scaled, t, prompts, control)
            x = scheduler.step(predicted, t, x, **given).prev_sample
            yield x

    def predict(self, x: Tensor, t: Tensor, prompts: Tensor, control: Tensor) -> Tensor:
        """The guided prediction at timestep ``t``, (B, D, h, w).

        Args:
            x: (B, D, h, w) latent.
            prompts: (B, length, width), or (2B, ...) with the negative prompt's half first.
            control: as ``conditioning`` gives it, as often as ``prompts``.
        """
        unet: Any = self.net["unet"]
        passes = len(prompts) // len(x)
        inputs = x.repeat(passes, 1, 1, 1)
        down, mid = self.residuals(inputs, t, prompts, control)
        out: Tensor = unet(
            inputs,
            t,
            encoder_hidden_states=prompts,
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
            return_dict=False,
        )[0]
        if passes == 1:
            return out
        without, conditional = out.chunk(2)
        return without + self.options.guidance * (conditional - without)

    def residuals(
        self, x: Tensor, t: Tensor, prompts: Tensor, control: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """What the ControlNet adds to the UNet's skips and to its middle; arguments as of
        ``predict``, ``x`` as often as ``prompts``."""
        network: Any = self.net["controlnet"]
        down, mid = network(
            x,
            t,
            encoder_hidden_states=prompts,
            controlnet_cond=control,
            conditioning_scale=self.options.strength,
            return_dict=False,
        )
        return list(down), mid

    def conditioning(self, label: Tensor) -> Tensor:
        """(B, H, W) label map -> (B, 3, *resolution) float32 in [0, 1], the palette's RGB."""
        label = resize_labels_pil(label, self.resolution)
        colours = torch.tensor((BLACK, *self.colours), dtype=torch.uint8, device=label.device)
        picture = colours[label + 1]  # a hole (-1) takes the first
        return picture.permute(0, 3, 1, 2).contiguous().float() / 255

    def decode(self, latent: Tensor) -> Tensor:
        """(B, D, h, w) final latent -> (B, 3, H, W) in [-1, 1]."""
        vae: Any = self.net["vae"]
        image: Tensor = vae.decode(latent / vae.config.scaling_factor, return_dict=False)[0]
        image = image.clamp(-1, 1)
        if tuple(image.shape[-2:]) == tuple(self.size):
            return image
        return F.interpolate(image, self.size, mode="bilinear", antialias=True)

    def _ids(self, prompt: str) -> Tensor:
        return token_ids(prompt, self.options.tokenizer, self.net["text_encoder"])
