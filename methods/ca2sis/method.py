"""CA2-SIS behind the common interface: layouts are mask embeddings, styles 1280 numbers a class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sisbench.core.batch import Batch
from sisbench.core.errors import Unavailable, UserError
from sisbench.core.label_space import HOLE, LabelSpace
from sisbench.methods.base import Layout, Method, NoiseSource, Style, draw, present_classes
from sisbench.methods.ca2sis.layout import CA2Layout
from sisbench.methods.ca2sis.network import CA2SISNet, RegionStyleEncoder, Widths
from sisbench.methods.ca2sis.options import CA2SISOptions
from sisbench.methods.ca2sis.training import CA2SISTraining
from sisbench.methods.key_map import KeyMap
from sisbench.methods.layers.grouped_style import GroupedStyleEncoder
from sisbench.methods.layers.labels import read_labels


class CA2SIS(Method):
    """CA2-SIS: cross-attention from pixels to per-class style codes, and mask embeddings as layout.

    Inference is deterministic and does not depend on the batch. Without the final tanh (older
    checkpoints) values may leave [-1, 1]; quantisation clips them, as the official code does.
    """

    name = "ca2sis"
    title = "CA2-SIS"
    paper = (
        "Fontanini et al., Semantic Image Synthesis via Class-Adaptive Cross-Attention, "
        "IEEE Access, arXiv:2308.16071"
    )
    Options = CA2SISOptions
    files: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "netG": ("latest_net_G.pth", "*_net_G.pth", "ema.pth")
    }
    prefixes: Mapping[str, str] = {"netG": "ema_model.netG."}

    options: CA2SISOptions
    net: CA2SISNet

    @classmethod
    def training(cls) -> type[CA2SISTraining]:
        """Hinge, feature matching, perceptual and attention loss; then the mapping network's."""
        return CA2SISTraining

    # ---- construction -------------------------------------------------------------------------

    def build(self, space: LabelSpace) -> nn.Module:
        o = self.options
        wide = (o.ds_mode or space.name) == "cityscapes"
        self.size = (o.resolution, o.resolution * (2 if wide else 1))
        classes, code_dim = self.num_classes, o.style_dim
        encoder: nn.Module
        if o.sean_style_encoder:
            encoder = RegionStyleEncoder(classes, code_dim)
        else:
            encoder = GroupedStyleEncoder(
                classes,
                o.style_enc_feat_dim,
                o.style_dim,
                halvings=o.style_levels + 1,
                levels=o.style_levels,
                grouped=not o.no_group_conv,
            )
            code_dim *= o.style_levels
        if self._shifted and (self._exclude_bg or not self._dont_care):
            raise UserError(
                "ade_labels: shifted puts class 0 into the don't-care channel",
                "set contain_dontcare_label: true and exclude_bg: false with it",
            )
        first = 2 ** (len(o.channels) - 2)
        return CA2SISNet(
            classes,
            self._exclude_bg,
            (self.size[0] // first, self.size[1] // first),
            encoder,
            code_dim,
            o.mapping_dim if self._has_mapping else 0,
            embedder=not o.no_embedding,
            tanh=not o.ablation if o.tanh is None else o.tanh,
            attention=not o.no_cross_attention,
            widths=Widths(o.channels, o.heads, o.head_dim, o.mask_side, o.mapping_width),
        )

    @property
    def num_classes(self) -> int:
        nc = self.options.label_nc
        return len(self.space) if nc is None else nc + int(self._dont_care)

    @property
    def _dont_care(self) -> bool:
        given = self.options.contain_dontcare_label
        return self.space.name == "ade20k" if given is None else given

    @property
    def _exclude_bg(self) -> bool:
        given = self.options.exclude_bg
        return self.space.name == "celebamask_hq" if given is None else given

    @property
    def _shifted(self) -> bool:
        return self.options.ade_labels == "shifted"

    @property
    def _has_mapping(self) -> bool:
        given = self.options.noise_encoder
        return not self.options.ablation if given is None else given

    def adapt_to(self, official: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Rebuild for the version of a checkpoint: files from before the attention loss lack the
        mapping network (and their code the tanh); its noise was 256 wide before it was 16."""
        state = official.get("netG", {})
        if "reshape_conv.weight" not in state:
            return  # another network's file: the comparison of keys says so
        trunk = state.get("noise_encoder.shared.0.weight")
        changes: dict[str, Any] = {}
        if trunk is None and self.options.noise_encoder is None:
            changes["noise_encoder"] = False
            if self.options.tanh is None:
                changes["tanh"] = False
        elif trunk is not None and trunk.ndim == 2 and "mapping_dim" not in self.given_options:
            changes["mapping_dim"] = trunk.shape[1]
        if any(getattr(self.options, key) != value for key, value in changes.items()):
            self.options = replace(self.options, **changes)
            self.setup(self.space).to(self.device)

    def key_maps(self) -> Mapping[str, KeyMap]:
        keys = KeyMap(self.net)
        if self._has_mapping:
            for layer in range(4):
                for part in ("weight", "bias"):
                    branches = [
                        f"noise_encoder.unshared.{c}.{2 * layer}.{part}"
                        for c in range(self.num_classes)
                    ]
                    keys.stack(f"noise_encoder.unshared.{layer}.{part}", branches)
        else:
            keys.ignore(r"^noise_encoder\.")
        if self.options.no_embedding:  # trained and saved, though nothing uses it
            width = self.net.base[0] * self.net.base[1]
            keys.unused("encs.encs.0.weight", (width, self.options.mask_side**2))
            keys.unused("encs.encs.0.bias", (width,))
        keys.same()
        return {"netG": keys}

    # ---- the contract -------------------------------------------------------------------------

    def encode_layout(self, batch: Batch) -> CA2Layout:
        """The label map and its mask embeddings."""
        label = self._labels(batch)
        rows = self.net.embed(self._channels(label))
        if self._shifted:
            rows = self._by_class(rows)
        present = present_classes(label, self.num_classes)
        return CA2Layout(label, present, batch.instance, embedding=rows)

    def encode_style(self, batch: Batch) -> Style:
        """Codes (B, C, 1280), five resolutions of 256, coarse first; a class that is absent has the
        code that training gave to absent ones, not zero."""
        label = self._labels(batch)
        codes = self.net.style_encoder(batch.image, self._channels(label))
        return Style(self._by_class(codes), present_classes(label, self.num_classes))

    def sample_style(self, batch: Batch, noise: NoiseSource) -> Style:
        """Codes from the mapping network, zero for classes that the label map lacks.

        Raises:
            Unavailable: the checkpoint has no mapping network.
        """
        if not self._has_mapping:
            raise Unavailable(self.cannot()["sample"])
        z = draw(noise, "z", len(batch), self.options.mapping_dim, like=batch.image)
        return self.style_of(batch, z)

    def style_of(self, batch: Batch, z: Tensor) -> Style:
        """The style that the mapping network makes of z (B, mapping_dim)."""
        label = self._labels(batch)
        present = present_classes(label, self.num_classes)
        codes = self._by_class(self.net.noise_encoder(z))
        return Style(codes * present[:, :, None], present)

    def render(self, layout: Layout, style: Style, noise: NoiseSource) -> Tensor:
        """(B, 3, H, W); the network draws no noise of its own."""
        return self.draw(layout, style)

    def draw(
        self,
        layout: Layout,
        style: Style,
        maps: list[Tensor] | None = None,
        per_head: bool = False,
    ) -> Tensor:
        """As ``render``; ``maps`` receives each stage's attention logits before the softmax, by
        class id: mean over heads (B, C, h, w), or ``per_head`` (B, heads, C, h, w)."""
        rows = self._by_channel(layout)
        return self.net.decode(rows, style.codes, layout.label, maps, per_head)

    def cannot(self) -> Mapping[str, str]:
        if self._has_mapping and not self._style_stage():
            return {}
        reason = "these weights have no mapping network: nothing to draw styles from"
        if self._has_mapping:
            reason = "the mapping network of these weights is untrained: train stage: diversity"
        return {"sample": reason, "mixed": reason}

    def _style_stage(self) -> bool:
        """Whether a training of ours left the mapping network at its initial values."""
        about = self.weights_info.get("about", {}).get("training", {})
        recipe = about.get("recipe")
        return recipe is not None and recipe["training"].get("stage", "style") == "style"

    @torch.inference_mode()
    def attention_maps(self, batch: Batch) -> dict[str, Tensor]:
        """What the pixels of a reconstruction attend to.

        Returns:
            stage ("cross2" at 1/16 of the size ... "cross6" at full size) -> (B, C, h, w) logits
            before the softmax, mean over heads: what the attention loss compares with the label
            map (the paper says softmax maps of each head).

        Raises:
            Unavailable: the ablation without cross-attention has none.
        """
        if self.options.no_cross_attention:
            raise Unavailable("the ablation without cross-attention has no attention maps")
        maps: list[Tensor] = []
        self.draw(self.encode_layout(batch), self.encode_style(batch), maps)
        return {f"cross{i + 2}": found for i, found in enumerate(maps)}

    # ---- channels -----------------------------------------------------------------------------

    def _labels(self, batch: Batch) -> Tensor:
        """The label map with don't-care pixels in their class.

        Raises:
            UserError: a value that no channel stands for.
        """
        classes = self.num_classes
        channel_of_it = 0 if self._shifted else classes - 1
        return read_labels(
            batch.label,
            classes,
            channel_of_it if self._dont_care else None,
            "check label_nc, contain_dontcare_label and the label space",
        )

    def _channels(self, label: Tensor) -> Tensor:
        """Class ids -> the network's channels."""
        if not self._shifted:
            return label
        shifted = torch.where(label == 0, self.num_classes - 1, label - 1)
        return torch.where(label == HOLE, label, shifted)

    def _by_class(self, rows: Tensor) -> Tensor:
        """(B, C, ...) by channel -> by class id."""
        return rows.roll(1, 1) if self._shifted else rows

    def _by_channel(self, layout: Layout) -> Tensor:
        """Mask embeddings in the order of the network's channels."""
        if not isinstance(layout, CA2Layout):
            raise UserError(
                f"CA2-SIS draws its own layouts, got a {type(layout).__name__}",
                "make it with encode_layout",
            )
        return layout.embedding.roll(-1, 1) if self._shifted else layout.embedding
