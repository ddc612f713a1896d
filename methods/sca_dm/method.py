"""SCA-DM behind the common interface: one code of 1280 numbers a class, drawn by diffusion."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sisbench.core.batch import Batch
from sisbench.core.errors import UserError
from sisbench.core.label_space import LabelSpace
from sisbench.methods.base import Layout, Method, NoiseSource, Style, draw, present_classes
from sisbench.methods.key_map import KeyMap
from sisbench.methods.layers.diffusion.branches import guided
from sisbench.methods.layers.diffusion.ddim import DDIM
from sisbench.methods.layers.diffusion.unet import UNet
from sisbench.methods.layers.grouped_style import GroupedStyleEncoder
from sisbench.methods.layers.labels import read_labels
from sisbench.methods.layers.norms import GroupNorm
from sisbench.methods.sca_dm.checkpoint import EMA_PREFIX, PREFIXES, UNetKeyMap
from sisbench.methods.sca_dm.first_stage import FirstStage
from sisbench.methods.sca_dm.options import SCADMOptions
from sisbench.methods.sca_dm.training import SCADMTraining

_CITYSCAPES = 34
"""Label ids 0..33; the 35th class of the label space, the licence plate, has the id -1 there."""


class Networks(nn.Module):
    """The three networks."""

    def __init__(
        self, unet: UNet, style_encoder: GroupedStyleEncoder, first_stage: FirstStage
    ) -> None:
        super().__init__()
        self.unet = unet
        self.style_encoder = style_encoder
        self.first_stage = first_stage


def regroup(network: nn.Module, groups: int) -> None:
    """Give every norm of ``network`` so many groups; its parameters are by channel and stay."""
    for module in network.modules():
        if isinstance(module, GroupNorm):
            module.num_groups = groups


class SCADM(Method):
    """Semantic class-adaptive diffusion.

    A label map enters the UNet's middle and decoder through SPADE norms, and a style through one
    code of 1280 numbers a class that the class's pixels receive in every transformer. Codes of a
    class that the photograph lacks are constants. A drawn style is the code of a mid-grey image
    under the own label map, so variety comes from the start ``x_T`` alone.
    """

    name = "sca-dm"
    title = "SCA-DM"
    paper = (
        "Ergasti et al., Controllable Face Synthesis with Semantic Latent Diffusion Models, 2024"
    )
    Options = SCADMOptions
    files: ClassVar[Mapping[str, tuple[str, ...]]] = dict.fromkeys(
        PREFIXES, ("epoch=*.ckpt", "last.ckpt", "*.ckpt")
    )
    prefixes: Mapping[str, str] = PREFIXES
    sampling_options = frozenset({"steps", "scale", "guidance", "eta", "quantize", "ema", "size"})
    options: SCADMOptions
    net: Networks

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if self.options.ema:
            self.prefixes = {**PREFIXES, "unet": EMA_PREFIX}
        self._schedule()

    def _schedule(self) -> None:
        o = self.options
        self.ddim = DDIM.make(o.steps, o.eta, o.timesteps, o.linear_start, o.linear_end)

    @classmethod
    def training(cls) -> type[SCADMTraining]:
        """Denoising, and the first stage before it where none is given."""
        return SCADMTraining

    # ---- construction -------------------------------------------------------------------------

    @property
    def num_classes(self) -> int:
        """Classes that layouts and styles are addressed by."""
        default = _CITYSCAPES if self.space.name == "cityscapes" else len(self.space)
        return self.options.num_classes or default

    def build(self, space: LabelSpace) -> Networks:
        """UNet, style encoder and first stage for label maps of ``space``.

        Raises:
            UserError: more classes than the label space has.
        """
        o, c = self.options, self.num_classes
        if c > len(space):
            raise UserError(f"sca-dm: {c} classes, but '{space.name}' has {len(space)}")
        self._schedule()  # once more: a file may have brought options of its own
        wide = 2 if space.name == "cityscapes" else 1
        self.size = o.size or (o.side, wide * o.side)
        unet = UNet(
            c,
            channels=o.in_channels,
            width=o.model_channels,
            multipliers=o.channel_mult,
            blocks=o.num_res_blocks,
            attention=o.attention_resolutions,
            head=o.num_head_channels,
            context=o.num_upsample * o.output_dim,
            masked=o.use_mask_attn,
            hidden=o.nhidden,
        )
        style_encoder = GroupedStyleEncoder(
            c, o.num_feat, o.output_dim, o.num_downsample, o.num_upsample
        )
        first_stage = FirstStage(
            o.in_channels, o.n_embed, o.z_channels, o.ch, o.ch_mult, o.first_stage_blocks
        )
        for network in (unet, first_stage):
            regroup(network, o.norm_groups)
        return Networks(unet, style_encoder, first_stage)

    def key_maps(self) -> Mapping[str, KeyMap]:
        """Official modules ``unet``, ``style_encoder``, ``first_stage``."""
        maps: dict[str, KeyMap] = {"unet": UNetKeyMap(self.net.unet, self.options.ema)}
        for name in ("style_encoder", "first_stage"):
            maps[name] = KeyMap(getattr(self.net, name))
            maps[name].same()
        return maps

    # ---- the contract -------------------------------------------------------------------------

    def encode_layout(self, batch: Batch) -> Layout:
        """The label map itself.

        Raises:
            UserError: a label outside of the classes.
        """
        self._check_labels(batch.label)
        return Layout(batch.label, present_classes(batch.label, self.num_classes))

    def encode_style(self, batch: Batch) -> Style:
        """Codes (B, C, 1280); a class absent from the label map keeps its constant.

        Raises:
            UserError: a label outside of the classes.
        """
        return self._style(batch.image, batch.label)

    def sample_style(self, batch: Batch, noise: NoiseSource) -> Style:
        """Codes of a mid-grey image under the batch's label map: "no reference" in training.

        Nothing is drawn here: samples differ by the start ``x_T`` of ``render``.
        """
        return self._style(torch.zeros_like(batch.image), batch.label)

    def _style(self, image: Tensor, label: Tensor) -> Style:
        self._check_labels(label)
        codes = self.net.style_encoder(image, label)
        return Style(codes, present_classes(label, self.num_classes))

    @torch.inference_mode()
    def render(self, layout: Layout, style: Style, noise: NoiseSource) -> Tensor:
        """(B, 3, H, W): DDIM from ``x_T``, then the first stage's decoder, clamped to [-1, 1].

        Noise: ``x_T`` of the latent's shape; with eta > 0 also ``step<i>``, i counting the steps
        from 0 at the largest timestep.

        Raises:
            UserError: sides that cannot be halved as often as the networks do.
        """
        *_, (latent, _clean) = self.trajectory(layout, style, noise)
        return self.decode(latent)

    def trajectory(
        self, layout: Layout, style: Style, noise: NoiseSource
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The latent after each DDIM step, (B, 3, H/4, W/4), and the clean one predicted in it."""
        unet, codes, weight = self.net.unet, style.codes, self.options.weight
        batch, shape = codes.shape[0], self._latent_shape(layout.label)
        condition = unet.condition(layout.label, codes, shape[1:])
        if weight != 1:
            condition = condition.after(unet.null_condition(batch, shape[1:]))
        times = unet.time_biases(torch.from_numpy(self.ddim.timesteps).to(codes.device))

        def predict(x: Tensor, i: int) -> Tensor:
            eps = unet.step(x, [t[i : i + 1] for t in times], condition)
            return eps if weight == 1 else guided(eps, weight)

        def drawn(count: int) -> Tensor:
            return draw(noise, f"step{count}", batch, *shape, like=codes)

        start = draw(noise, "x_T", batch, *shape, like=codes)
        return self.ddim.sample(start, predict, drawn if self.options.eta > 0 else None)

    def decode(self, latent: Tensor) -> Tensor:
        """(B, 3, h, w) final latent -> (B, 3, H, W) in [-1, 1]."""
        return self.net.first_stage.decode(latent, self.options.quantize).clamp(-1, 1)

    # ---- checks -------------------------------------------------------------------------------

    def _latent_shape(self, label: Tensor) -> tuple[int, int, int]:
        step = self.options.factor * self.net.unet.factor
        height, width = label.shape[-2:]
        if height % step or width % step:
            raise UserError(
                f"sca-dm: sides must be multiples of {step}, got {height} x {width}",
                f"the official size is {self.size[0]} x {self.size[1]}",
            )
        factor = self.options.factor
        return self.options.in_channels, height // factor, width // factor

    def _check_labels(self, label: Tensor) -> None:
        hint = "the networks have no don't-care class: map such pixels to a class"
        read_labels(label, self.num_classes, hint=hint)
