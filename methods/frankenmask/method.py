"""FrankenMask as a layout editor: parts of two face label maps are exchanged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from sisbench.core.batch import Batch
from sisbench.core.errors import UserError
from sisbench.core.label_space import LabelSpace
from sisbench.core.noise import NoiseSource
from sisbench.core.resize import resize_labels_torch
from sisbench.methods.base import Classes, class_mask
from sisbench.methods.editor import LayoutEditor
from sisbench.methods.frankenmask.network import SIDE, FrankenMaskNet
from sisbench.methods.frankenmask.options import FrankenMaskOptions
from sisbench.methods.frankenmask.training import FrankenMaskTraining
from sisbench.methods.key_map import KeyMap
from sisbench.methods.layers.labels import one_hot, read_labels, with_background


class FrankenMask(LayoutEditor):
    """Fontanini et al. 2023: a whole label map is redrawn from parts of two. Deterministic."""

    name = "frankenmask"
    title = "FrankenMask"
    paper = (
        "Fontanini et al., FrankenMask: Manipulating semantic masks with transformers for face "
        "parts editing, Pattern Recognition Letters 176, 2023"
    )
    size = (SIDE, SIDE)
    Options = FrankenMaskOptions
    files: ClassVar[Mapping[str, tuple[str, ...]]] = {"netU": ("*swapNet*.pt", "*.pt")}

    options: FrankenMaskOptions
    net: FrankenMaskNet

    @classmethod
    def training(cls) -> type[FrankenMaskTraining]:
        """Cross-entropy."""
        return FrankenMaskTraining

    def build(self, space: LabelSpace) -> FrankenMaskNet:
        """netU, for label maps of 256x256."""
        o = self.options
        classes = len(space) - 1 if o.nc is None else o.nc
        if classes != len(space) - 1 or classes < 1:
            raise UserError(
                f"nc is {classes}, but label space '{space.name}' has {len(space) - 1} classes "
                "beside the background",
                "leave 'nc' out: it is taken from the label space",
            )
        exact = o.absent == "exact"
        return FrankenMaskNet(classes, o.ndf, o.ngf, o.latent, o.heads, o.layers, exact)

    def key_maps(self) -> Mapping[str, KeyMap]:
        """netU."""
        keys = KeyMap(self.net)
        self.net.map_keys(keys)
        return {"netU": keys}

    # ---- the contract -------------------------------------------------------------------------

    @torch.inference_mode()
    def reconstruct(self, batch: Batch, noise: NoiseSource) -> Tensor:
        """The label map through the network."""
        return self._draw(self.net.encode(self.planes(batch)[:, 1:]))

    @torch.inference_mode()
    def swap(
        self, target: Batch, reference: Batch, noise: NoiseSource, classes: Classes = None
    ) -> Tensor:
        """The network's redrawing of ``exchanged``."""
        return self._draw(self.net.encode(self.exchanged(target, reference, classes)[:, 1:]))

    @torch.inference_mode()
    def interpolate(
        self,
        target: Batch,
        reference: Batch,
        noise: NoiseSource,
        alpha: float,
        classes: Classes = None,
    ) -> Tensor:
        """(1 - alpha) * target + alpha * reference on the codes of ``classes``, before the
        transformer [ours]. A class that one of the two lacks has the code of an empty map."""
        if not 0 <= alpha <= 1:
            raise UserError(f"alpha must lie in [0, 1], got {alpha}")
        own, other = self._pair(target, reference)
        rows = class_mask(classes, own.flatten(2).any(2))[:, 1:, None]
        codes, others = self.net.encode(own[:, 1:]), self.net.encode(other[:, 1:])
        return self._draw(torch.where(rows, codes.lerp(others, alpha), codes))

    def planes(self, batch: Batch) -> Tensor:
        """The label maps one-hot with the background, (B, C, 256, 256) float32.

        Raises:
            UserError: a label value that is no class.
        """
        return one_hot(self.labels(batch), self.net.classes + 1)

    def labels(self, batch: Batch) -> Tensor:
        """The label map, (B, 256, 256) int64, checked.

        Raises:
            UserError: a label value that is no class.
        """
        hint = f"FrankenMask was built for the label space '{self.space.name}'"
        label = read_labels(batch.label, self.net.classes + 1, hint=hint)
        return resize_labels_torch(label, self.size)

    def exchanged(self, target: Batch, reference: Batch, classes: Classes = None) -> Tensor:
        """The target's planes with those of ``classes`` from the reference, where **both** have the
        class: the target's own pixels of it become holes, the reference's lie over other classes.

        Returns:
            (B, C, 256, 256) float32; a pixel may be set in several classes, or in none.
        """
        own, other = self._pair(target, reference)
        both = own.flatten(2).any(2) & other.flatten(2).any(2)
        chosen = class_mask(classes, both) & both
        return torch.where(chosen[:, :, None, None], other, own)

    def _pair(self, target: Batch, reference: Batch) -> tuple[Tensor, Tensor]:
        own, other = self.planes(target), self.planes(reference)
        if own.shape != other.shape:
            raise UserError(f"{len(own)} targets meet {len(other)} references")
        return own, other

    def _draw(self, codes: Tensor) -> Tensor:
        """Codes to a label map, (B, H, W) int64; equal values go to the lower class."""
        return with_background(self.net.decode(self.net.attend(codes))).argmax(1)
