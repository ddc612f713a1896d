"""Collaborative Diffusion behind the common interface: a sampler of photographs for a label map."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sisbench.core.batch import Batch
from sisbench.core.errors import UserError
from sisbench.core.label_space import LabelSpace
from sisbench.methods.base import GlobalStyle, Layout, Method, NoiseSource, draw, present_classes
from sisbench.methods.codiff.checkpoint import COMPOSED, FILES, MASK_ONLY, PartKeyMap
from sisbench.methods.codiff.conditions import MaskTokens, TextEncoder, caption_ids
from sisbench.methods.codiff.dynamic import mask_weight
from sisbench.methods.codiff.first_stage import FirstStage
from sisbench.methods.codiff.options import CoDiffOptions
from sisbench.methods.codiff.training import CoDiffTraining
from sisbench.methods.key_map import KeyMap
from sisbench.methods.layers.diffusion.ddim import DDIM
from sisbench.methods.layers.diffusion.unet import Condition, UNet
from sisbench.methods.layers.labels import read_labels


class Branch:
    """One UNet with everything that is constant over the steps."""

    def __init__(self, unet: UNet, condition: Condition, timesteps: Tensor) -> None:
        self.unet, self.condition = unet, condition
        self.times = unet.time_biases(timesteps)

    def predict(self, x: Tensor, i: int) -> Tensor:
        """(B, D, h, w) at step i of the grid -> (B, out, h, w)."""
        return self.unet.step(x, [t[i : i + 1] for t in self.times], self.condition)


class CoDiff(Method):
    """Collaborative Diffusion, by default its mask-driven model alone.

    The label map becomes one token a class, of where the class is on a grid of 32 x 32, and all
    that a pixel knows of it comes by cross-attention: small classes may vanish. It reads no
    photographs; samples differ by their noise alone.
    """

    name = "codiff"
    title = "CoDiff"
    paper = (
        "Huang et al., Collaborative Diffusion for Multi-Modal Face Generation and Editing, "
        "CVPR 2023, arXiv:2304.10530"
    )
    Options = CoDiffOptions
    stored_labels = True
    file_options: ClassVar[frozenset[str]] = frozenset({"vocabulary"})
    sampling_options: ClassVar[frozenset[str]] = frozenset(
        {"steps", "eta", "caption", "captions", "vocabulary"}
        | {"seg_mask_schedule", "seg_mask_scale_factor"}
    )
    options: CoDiffOptions
    net: nn.ModuleDict

    @classmethod
    def training(cls) -> type[CoDiffTraining]:
        """Denoising in a given latent."""
        return CoDiffTraining

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._schedule()

    def _schedule(self) -> None:
        o = self.options
        self.ddim = DDIM.make(o.steps, o.eta, o.timesteps, o.linear_start, o.linear_end)
        parts = COMPOSED if o.text else MASK_ONLY
        self.prefixes = {name: prefixes[0] for name, prefixes in parts.items()}
        patterns = tuple(f.format(o.variant) for f in (FILES[:1] if o.text else FILES[::-1]))
        self.files = dict.fromkeys(parts, patterns)  # type: ignore[misc]

    # ---- construction -------------------------------------------------------------------------

    def build(self, space: LabelSpace) -> nn.ModuleDict:
        """The networks, by official module name."""
        self._schedule()  # once more: a file may have brought options of its own
        o = self.options
        self.size = (o.native, o.native)

        def unet(width: int, out: int) -> UNet:
            return UNet(
                None,
                channels=o.in_channels,
                width=width,
                multipliers=o.channel_mult,
                blocks=o.num_res_blocks,
                attention=o.attention_resolutions,
                context=o.context_dim,
                heads=o.num_heads,
                out=out,
            )

        tokens = MaskTokens(math.isqrt(o.mask_embed_dim), o.context_dim)
        first = FirstStage(
            o.in_channels, o.z_channels, o.ch, o.levels, o.first_stage_blocks, o.latent_scale
        )
        whole = unet(o.model_channels, o.in_channels)
        if not o.text:
            parts = {"unet": whole, "cond_stage": tokens, "first_stage": first}
            return nn.ModuleDict(parts)
        return nn.ModuleDict(
            {
                "seg_mask_unet": whole,
                "text_unet": unet(o.model_channels, o.in_channels),
                "seg_mask_confidence_predictor": unet(o.influence_channels, 1),
                "text_confidence_predictor": unet(o.influence_channels, 1),
                "seg_mask_cond_stage": tokens,
                "text_cond_stage": TextEncoder(
                    o.vocab_size, o.max_seq_len, o.context_dim, o.n_layer
                ),
                "first_stage": first,
            }
        )

    def key_maps(self) -> Mapping[str, KeyMap]:
        """Official modules ``unet``, ``cond_stage``, ``first_stage``; with text those of the
        composed checkpoint."""
        parts = COMPOSED if self.options.text else MASK_ONLY
        return {name: PartKeyMap(self.net[name], parts[name]) for name in parts}

    # ---- the contract -------------------------------------------------------------------------

    def encode_layout(self, batch: Batch) -> Layout:
        """The label map itself, of any size: it is reduced straight to the tokens' grid.

        Raises:
            UserError: a label outside of the classes.
        """
        hint = "the network has no don't-care class: map such pixels to a class"
        label = read_labels(batch.label, self.num_classes, hint=hint)
        return Layout(label, present_classes(label, self.num_classes))

    def sample_style(self, batch: Batch, noise: NoiseSource) -> GlobalStyle:
        """The caption's tokens (B, 77 * 640) with text, else nothing (B, 0): the variety comes from
        the noise of ``render``.

        Raises:
            UserError: a sample without a caption, or no vocabulary.
        """
        present = self.encode_layout(batch).present
        if not self.options.text:
            return GlobalStyle(batch.image.new_zeros(len(batch), 0), present)
        o = self.options
        captions = [(o.captions or {}).get(i, o.caption) for i in batch.ids]
        without = [i for i, c in zip(batch.ids, captions, strict=True) if c is None]
        if without or o.vocabulary is None:
            wanted = f"'{without[0]}' has no caption" if without else "no vocabulary is given"
            raise UserError(f"codiff: {wanted}", "set caption or captions, and vocabulary")
        words = [c for c in captions if c is not None]
        ids = caption_ids(words, o.vocabulary, o.vocab_size, o.max_seq_len)
        return GlobalStyle(self.encode_text(ids.to(batch.image.device)), present)

    def encode_text(self, ids: Tensor) -> Tensor:
        """Codes (B, length * width) of a style from ids (B, length) int64 of captions."""
        return self.net["text_cond_stage"](ids).flatten(1)

    @torch.inference_mode()
    def render(self, layout: Layout, style: GlobalStyle, noise: NoiseSource) -> Tensor:  # type: ignore[override]
        """(B, 3, native, native) in [-1, 1]: DDIM and the first stage's decoder.

        Noise: ``x_T`` of the latent's shape; with eta > 0 also ``step<i>`` of the same shape, i
        counting the steps from 0 at the largest timestep.
        """
        *_, (latent, _clean) = self.trajectory(layout, style, noise)
        return self.decode(latent)

    def trajectory(
        self, layout: Layout, style: GlobalStyle, noise: NoiseSource
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The latent after each DDIM step, (B, 3, h, w), and the clean one predicted in it."""
        o, batch = self.options, layout.label.shape[0]
        shape = (o.in_channels, o.image_size, o.image_size)
        tokens = self.tokens(layout.label)

        def drawn(count: int) -> Tensor:
            return draw(noise, f"step{count}", batch, *shape, like=tokens)

        start = draw(noise, "x_T", batch, *shape, like=tokens)
        predict = self._predictor(tokens, style)
        return self.ddim.sample(start, predict, drawn if o.eta > 0 else None)

    def decode(self, latent: Tensor) -> Tensor:
        """(B, 3, h, w) final latent -> (B, 3, native, native) in [-1, 1]."""
        image: Tensor = self.net["first_stage"].decode(latent).clamp(-1, 1)  # type: ignore[operator]
        return image

    # ---- the networks -------------------------------------------------------------------------

    def tokens(self, label: Tensor) -> Tensor:
        """What the UNet attends to of a label map (B, H, W): (B, C, context)."""
        name = "seg_mask_cond_stage" if self.options.text else "cond_stage"
        return self.net[name](label, self.num_classes)

    def _branch(self, name: str, tokens: Tensor) -> Branch:
        unet: UNet = self.net[name]  # type: ignore[assignment]
        timesteps = torch.from_numpy(self.ddim.timesteps).to(tokens.device)
        return Branch(unet, unet.token_condition(tokens), timesteps)

    def _predictor(self, tokens: Tensor, style: GlobalStyle) -> Any:
        """Latent and step index -> predicted noise."""
        if not self.options.text:
            return self._branch("unet", tokens).predict
        text = style.codes.unflatten(1, (-1, self.options.context_dim))
        mask_unet, mask_influence = (
            self._branch(f"seg_mask_{k}", tokens) for k in ("unet", "confidence_predictor")
        )
        text_unet, text_influence = (
            self._branch(f"text_{k}", text) for k in ("unet", "confidence_predictor")
        )

        def predict(x: Tensor, i: int) -> Tensor:
            weight = self.weight(mask_influence.predict(x, i), text_influence.predict(x, i), i)
            return torch.lerp(text_unet.predict(x, i), mask_unet.predict(x, i), weight)

        return predict

    def weight(self, mask: Tensor, text: Tensor, i: int) -> Tensor:
        """Weight of the mask at step i of the grid from both influence logits (B, 1, h, w)."""
        o = self.options
        t = int(self.ddim.timesteps[i])
        return mask_weight(mask, text, t, o.seg_mask_schedule, o.seg_mask_scale_factor, o.timesteps)
