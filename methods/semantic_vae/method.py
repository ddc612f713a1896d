"""Semantic-VAE as a layout editor: parts of a face label map are redrawn, moved or mixed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from sisbench.core.batch import Batch
from sisbench.core.errors import UserError
from sisbench.core.label_space import LabelSpace
from sisbench.methods.base import Classes, NoiseSource, class_mask, draw
from sisbench.methods.editor import LayoutEditor
from sisbench.methods.key_map import KeyMap
from sisbench.methods.layers.labels import read_labels, with_background
from sisbench.methods.semantic_vae.network import SemanticVAENet
from sisbench.methods.semantic_vae.options import SemanticVAEOptions
from sisbench.methods.semantic_vae.training import SemanticVAETraining


class SemanticVAE(LayoutEditor):
    """Semantic-VAE: a variational autoencoder of label maps with one latent a class.

    The published network draws noise at inference too. Here each draw has a name: ``eps`` (C, 256)
    for the latents of the batch or the target, ``eps2`` for the reference's, ``rnd`` (C, 256) for
    new latents and perturbations, ``h0`` and ``c0`` (2 * layers, 256) for the LSTM's first states;
    C counts the classes without the background. ``ZeroNoise`` gives the deterministic variant.
    """

    name = "semantic-vae"
    title = "Semantic-VAE"
    paper = (
        "Fontanini et al., Automatic Generation of Semantic Parts for Face Image Synthesis, "
        "ICIAP 2023, arXiv:2307.05317"
    )
    Options = SemanticVAEOptions
    files: ClassVar[Mapping[str, tuple[str, ...]]] = {"netG": ("latest_net_G.pth", "*_net_G.pth")}

    options: SemanticVAEOptions
    net: SemanticVAENet

    @classmethod
    def training(cls) -> type[SemanticVAETraining]:
        """Weighted cross-entropy and KL; optionally a discriminator of label maps."""
        return SemanticVAETraining

    def build(self, space: LabelSpace) -> SemanticVAENet:
        o = self.options
        classes = len(space) - 1 if o.classes is None else o.classes
        if classes != len(space) - 1 or classes < 2:
            raise UserError(
                f"label space '{space.name}' has {len(space)} classes; "
                f"Semantic-VAE for {classes} and the background needs {max(classes, 2) + 1}",
                "leave 'classes' out: it is taken from the label space",
            )
        side = math.isqrt(o.latent)
        self.size = (16 * side, 16 * side)
        layers = 0 if o.no_LSTM else o.lstm_layers
        return SemanticVAENet(
            classes, side, o.mask_size, layers, o.bidirectional, o.do_perm, o.hidden, o.channels
        )

    def key_maps(self) -> Mapping[str, KeyMap]:
        keys = KeyMap(self.net)
        keys.same()
        return {"netG": keys}

    # ---- the contract -------------------------------------------------------------------------

    @torch.inference_mode()
    def reconstruct(self, batch: Batch, noise: NoiseSource) -> Tensor:
        """decode(z), z sampled."""
        return self._draw(self.latents(batch, noise), noise)

    @torch.inference_mode()
    def generate(self, batch: Batch, noise: NoiseSource, classes: Classes = None) -> Tensor:
        """Latents of ``classes`` from N(0, 1), the others from the encoder."""
        z = self.latents(batch, noise)
        rows = self._rows(classes, z)
        return self._draw(torch.where(rows, self._random(noise, z), z), noise)

    @torch.inference_mode()
    def perturb(self, batch: Batch, noise: NoiseSource, classes: Classes = None) -> Tensor:
        """N(0, 1) added to the latents of ``classes``, unscaled."""
        z = self.latents(batch, noise)
        return self._draw(z + self._rows(classes, z) * self._random(noise, z), noise)

    @torch.inference_mode()
    def swap(
        self, target: Batch, reference: Batch, noise: NoiseSource, classes: Classes = None
    ) -> Tensor:
        """Latents of ``classes`` from the reference. As regions are encoded one by one, this is the
        same as exchanging them in the label maps before encoding."""
        return self.interpolate(target, reference, noise, 1.0, classes)

    @torch.inference_mode()
    def interpolate(
        self,
        target: Batch,
        reference: Batch,
        noise: NoiseSource,
        alpha: float,
        classes: Classes = None,
    ) -> Tensor:
        """(1 - alpha) * target + alpha * reference on the latents of ``classes``, as in the paper.

        The published routine goes through own weights 1, .75, .5, .25, 0 but writes each step back:
        its strip is alpha = 0, .25, .625, .90625, 1 here.
        """
        if not 0 <= alpha <= 1:
            raise UserError(f"alpha must lie in [0, 1], got {alpha}")
        z, other = self.latents(target, noise), self.latents(reference, noise, "eps2")
        if z.shape != other.shape:
            raise UserError(f"{len(z)} targets meet {len(other)} references")
        return self._draw(torch.where(self._rows(classes, z), z.lerp(other, alpha), z), noise)

    def latents(self, batch: Batch, noise: NoiseSource, name: str = "eps") -> Tensor:
        """Sampled latents: (B, C - 1, latent) float; row i is class i + 1.

        Raises:
            UserError: a label value that is no class.
        """
        mu, log_var = self.net.encode(self.labels(batch))
        eps = draw(noise, name, len(batch), *mu.shape[1:], like=mu)
        return mu + eps * (log_var / 2).exp()

    def labels(self, batch: Batch) -> Tensor:
        """The label map, (B, H, W) int64, checked.

        Raises:
            UserError: a label value that is no class.
        """
        hint = f"Semantic-VAE was built for the label space '{self.space.name}'"
        return read_labels(batch.label, self.net.classes + 1, hint=hint)

    def logits(self, z: Tensor, noise: NoiseSource) -> Tensor:
        """Latents -> logits of all classes, (B, C, H, W); the background's is 0 or 1."""
        shape = (z.shape[0], self.net.states, self.net.latent)
        if self.net.states:
            h0, c0 = (draw(noise, name, *shape, like=z) for name in ("h0", "c0"))
        else:
            h0 = c0 = z.new_zeros(shape)
        return with_background(self.net.decode(z, h0, c0))

    # ---- helpers ------------------------------------------------------------------------------

    def _rows(self, classes: Classes, z: Tensor) -> Tensor:
        """Which latents belong to ``classes``: (B, C - 1, 1) bool."""
        if classes is not None and not isinstance(classes, Tensor) and 0 in classes:
            raise UserError(
                "class 0, the background, has no latent", "it is what no other class covers"
            )
        every = torch.ones(z.shape[0], z.shape[1] + 1, dtype=torch.bool, device=z.device)
        return class_mask(classes, every)[:, 1:, None]

    def _random(self, noise: NoiseSource, z: Tensor) -> Tensor:
        return draw(noise, "rnd", z.shape[0], *z.shape[1:], like=z)

    def _draw(self, z: Tensor, noise: NoiseSource) -> Tensor:
        """Latents to a label map, (B, H, W) int64; equal values go to the lower class."""
        return self.logits(z, noise).argmax(1)
