"""The network of FrankenMask: one code a class, a transformer over the codes, one decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sisbench.methods.layers.spade import leaky

if TYPE_CHECKING:
    from sisbench.methods.key_map import KeyMap

SIDE = 256
"""Side of the label maps that it takes and gives."""
_STAGES = 7
_FEED_FORWARD = 2048


class FrankenMaskNet(nn.Module):
    """An autoencoder of label maps without their background.

    Args:
        classes: classes without the background.
        ndf, ngf: width factors of encoder and decoder.
        latent: numbers a class code has.
        heads, layers: of the transformer.
        exact: empty maps are not encoded; their code is ``vaes``' bias.
    """

    def __init__(
        self, classes: int, ndf: int, ngf: int, latent: int, heads: int, layers: int, exact: bool
    ) -> None:
        super().__init__()
        self.classes, self.latent, self.exact = classes, latent, exact
        widths = [1, *(ndf * 2**i for i in range(_STAGES))]
        self.encs = nn.ModuleDict(
            {str(3 * i): nn.Conv2d(widths[i], widths[i + 1], 4, 2, 1) for i in range(_STAGES)}
        )
        small = (SIDE >> _STAGES) ** 2
        self.vaes = nn.Linear(widths[-1] * small, latent)
        self.pos_enc = nn.Parameter(torch.zeros(classes, 1, latent))
        layer = nn.TransformerEncoderLayer(latent, heads, _FEED_FORWARD, batch_first=True)
        self.transformer_encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.start = ngf * 2 ** (_STAGES - 1)
        self.d1 = nn.Linear(classes * latent, self.start * small)
        widths = [*(ngf * 2**i for i in reversed(range(_STAGES))), classes]
        for i in range(_STAGES):
            self.add_module(f"d{i + 2}", nn.Conv2d(widths[i], widths[i + 1], 3))

    def encode(self, planes: Tensor) -> Tensor:
        """Codes before the transformer.

        Args:
            planes: (B, classes, 256, 256) float, 0 or 1; a pixel may be set in several classes.

        Returns:
            (B, classes, latent)
        """
        wanted = planes.flatten(2).any(2) if self.exact else planes.new_ones(planes.shape[:2]) > 0
        codes = self.vaes.bias.expand(*planes.shape[:2], -1).clone()
        if wanted.any():
            found = self.vaes(self._convolved(planes[wanted][:, None]).flatten(1))
            codes[wanted] = found.to(codes.dtype)  # half as wide in mixed precision
        return codes

    def _convolved(self, x: Tensor) -> Tensor:
        """(n, 1, 256, 256) -> (n, C, 2, 2)"""
        for conv in self.encs.values():
            x = leaky(F.instance_norm(conv(x)))
        return x

    def attend(self, codes: Tensor) -> Tensor:
        """(B, classes, latent) -> the same, each code by what the others say."""
        return self.transformer_encoder(codes + self.pos_enc[:, 0])

    def decode(self, attended: Tensor) -> Tensor:
        """(B, classes, latent) -> logits (B, classes, 256, 256)"""
        side = SIDE >> _STAGES
        x = F.relu(self.d1(attended.flatten(1))).view(-1, self.start, side, side)
        for i in range(_STAGES):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = getattr(self, f"d{i + 2}")(F.pad(x, (1, 1, 1, 1), mode="replicate"))
            if i + 1 < _STAGES:
                x = leaky(F.instance_norm(x))
        return x

    def map_keys(self, keys: KeyMap) -> None:
        """Cover everything; the file also holds the template of the transformer's layers."""
        prefix = "transformer_encoder.layers.0."
        for key, value in self.state_dict().items():
            if key.startswith(prefix):
                keys.unused(f"encoder_layer.{key.removeprefix(prefix)}", tuple(value.shape))
        keys.same()
