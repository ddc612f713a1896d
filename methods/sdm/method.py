"""SDM behind the common interface: a sampler of photographs for a label map, without a style."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from sisbench.core.batch import Batch
from sisbench.core.errors import UserError
from sisbench.core.label_space import HOLE, LabelSpace
from sisbench.methods.base import GlobalStyle, Layout, Method, NoiseSource, draw, present_classes
from sisbench.methods.key_map import KeyMap
from sisbench.methods.layers.diffusion.branches import guided
from sisbench.methods.layers.diffusion.respaced import Respaced
from sisbench.methods.layers.labels import instance_edges, read_labels
from sisbench.methods.sdm.network import UNet
from sisbench.methods.sdm.options import SDMOptions
from sisbench.methods.sdm.training import SDMTraining

_INSTANCES = ("cityscapes", "coco_stuff")
"""Label spaces whose data sets hold instance maps."""
_TIMES = 64
"""Steps whose time terms are computed at once: bounds their memory."""


class SDM(Method):
    """Semantic diffusion model.

    The noisy photograph runs through the UNet's encoder, and the label map enters middle and
    decoder through SPADE norms. It reads no photographs: samples differ by their noise alone.
    """

    name = "sdm"
    title = "SDM"
    paper = "Wang et al., Semantic Image Synthesis via Diffusion Models, 2022, arXiv:2207.00050"
    Options = SDMOptions
    files: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "model": ("ema_0.9999_best.pt", "ema_*.pt", "*.pt")
    }
    sampling_options = frozenset({"steps", "sampler", "spacing", "scale", "eta", "size"})
    options: SDMOptions
    net: UNet

    @classmethod
    def training(cls) -> type[SDMTraining]:
        """Denoising, and the variational bound of the variance."""
        return SDMTraining

    # ---- construction -------------------------------------------------------------------------

    @property
    def num_classes(self) -> int:
        """Classes that layouts are addressed by; COCO-Stuff's last one is "unlabelled"."""
        return self.options.num_classes or len(self.space) + (self.space.name == "coco_stuff")

    def build(self, space: LabelSpace) -> UNet:
        """The UNet for label maps of ``space``.

        Raises:
            UserError: more classes than the label space has; steps that the schedule cannot keep.
        """
        o, c = self.options, self.num_classes
        known = len(space) + (space.name == "coco_stuff")
        if c > known:
            raise UserError(f"sdm: {c} classes, but '{space.name}' has {known}")
        self.schedule = Respaced.make(o.steps, o.spaced, o.timesteps)
        self.size = o.size or (o.image_size, (1 + (space.name == "cityscapes")) * o.image_size)
        bare = space.name == "ade20k" if o.no_instance is None else o.no_instance
        channels = c if bare else c + 1
        if o.semantic_channels not in (None, channels):
            raise UserError(
                f"sdm: semantic_channels is {o.semantic_channels}, but {c} classes "
                f"{'without' if bare else 'with'} edges make {channels}",
                "leave it out, or mend num_classes or no_instance",
            )
        return UNet(
            channels,
            c,
            o.num_channels,
            o.multipliers,
            o.num_res_blocks,
            [o.image_size // r for r in o.attention_resolutions],
            {width: o.head(width) for width in o.widths},
        )

    def key_maps(self) -> Mapping[str, KeyMap]:
        """The official module ``model``."""
        keys = KeyMap(self.net)
        self.net.map_keys(keys)
        return {"model": keys}

    # ---- the contract -------------------------------------------------------------------------

    def encode_layout(self, batch: Batch) -> Layout:
        """The label map; 255 is ADE20K's and COCO-Stuff's "unlabelled".

        Raises:
            UserError: a value that is no class; instance maps are needed and not there.
        """
        unlabelled = {"ade20k": 0 if self._shifted else self.num_classes - 1,
                      "coco_stuff": self.num_classes - 1}.get(self.space.name)  # fmt: skip
        label = read_labels(batch.label, self.num_classes, unlabelled)
        layout = Layout(label, present_classes(label, self.num_classes), batch.instance)
        if self.net.edges:
            self.edge_source(layout)
        return layout

    def sample_style(self, batch: Batch, noise: NoiseSource) -> GlobalStyle:
        """Nothing but the presence of classes: all variety comes from the noise of ``render``."""
        present = present_classes(self.encode_layout(batch).label, self.num_classes)
        return GlobalStyle(batch.image.new_zeros(len(batch), 0), present)

    @torch.inference_mode()
    def render(self, layout: Layout, style: GlobalStyle, noise: NoiseSource) -> Tensor:  # type: ignore[override]
        """(B, 3, H, W) in [-1, 1]; the style is not looked at.

        Noise: ``x_T`` (3, H, W); but for DDIM with eta 0 also ``step<i>`` of the same shape, i
        counting the steps from 0 at the largest timestep; the last step needs none.

        Raises:
            UserError: sides that cannot be halved as often as the UNet does.
        """
        x = None
        for x in self.trajectory(layout, noise):  # noqa: B007  # each step needs the one before
            pass
        assert x is not None
        return x.clamp(-1, 1)

    def trajectory(self, layout: Layout, noise: NoiseSource) -> Iterator[Tensor]:
        """The image after each step, (B, 3, H, W)."""
        unet, o, label = self.net, self.options, self.fed(layout.label)
        batch, shape = label.shape[0], (3, *self._sides(label))
        edges = instance_edges(self.edge_source(layout)) if unet.edges else None
        condition = unet.condition(label, edges)
        if o.scale > 1:
            condition = condition.after(unet.null_condition(label))
        like = next(unet.parameters())
        timesteps = torch.from_numpy(self.schedule.timesteps).to(label.device)
        times: dict[int, list[Tensor]] = {}

        def time_terms(i: int) -> list[Tensor]:
            part, row = divmod(i, _TIMES)
            if part not in times:
                times.clear()
                times[part] = unet.time_terms(timesteps[part * _TIMES : (part + 1) * _TIMES])
            return [t[row : row + 1] for t in times[part]]

        def predict(x: Tensor, i: int) -> Tensor:
            out = unet.step(x, time_terms(i), condition)
            if condition.branches == 1:
                return out
            return torch.cat([guided(out[:, :3], o.scale), out[batch:, 3:]], 1)

        def drawn(count: int) -> Tensor:
            return draw(noise, f"step{count}", batch, *shape, like=like)

        start = draw(noise, "x_T", batch, *shape, like=like)
        return self.schedule.sample(start, predict, drawn, o.eta if o.ddim else None)

    # ---- the label map as the network takes it ------------------------------------------------

    @property
    def _shifted(self) -> bool:
        return self.space.name == "ade20k" and self.options.ade_labels == "shifted"

    def fed(self, label: Tensor) -> Tensor:
        """Labels in the order of the network's channels."""
        if not self._shifted:
            return label
        shifted = torch.where(label == 0, self.num_classes - 1, label - 1)
        return torch.where(label == HOLE, label, shifted)

    def edge_source(self, layout: Layout) -> Tensor:
        """The map whose edges are drawn, (B, H, W)."""
        source = self.options.edges or ("instance" if self.space.name in _INSTANCES else "label")
        if source == "label":
            return layout.label
        if layout.instance is None:
            raise UserError(
                "sdm: the channel of edges needs instance maps, and there are none",
                "set edges: label, or use a data set with instances",
            )
        return layout.instance

    def _sides(self, label: Tensor) -> tuple[int, int]:
        height, width = label.shape[-2:]
        step = self.net.factor
        if height % step or width % step:
            raise UserError(
                f"sdm: sides must be multiples of {step}, got {height} x {width}",
                f"the official size is {self.size[0]} x {self.size[1]}",
            )
        return height, width
