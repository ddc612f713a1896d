"""The network of Semantic-VAE: one latent vector a class, an LSTM over the classes, one decoder."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from sisbench.core.label_space import HOLE
from sisbench.core.resize import resize_labels_torch
from sisbench.methods.layers.labels import one_hot
from sisbench.methods.layers.res_block import ResBlock

_DOUBLINGS = 4


class RegionEncoder(nn.Module):
    """Mean and log-variance of a class's latent from its region, the same layers for all classes
    (paper section 3.1)."""

    def __init__(self, mask_size: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.mask_size = mask_size
        self.encs = nn.Sequential(
            nn.Linear(mask_size * mask_size, hidden),
            nn.ReLU(True),
            nn.Linear(hidden, hidden // 2),
            nn.ReLU(True),
            nn.Linear(hidden // 2, latent),
            nn.ReLU(True),
        )
        self.mu = nn.Linear(latent, latent)
        self.log_var = nn.Linear(latent, latent)

    def forward(self, label: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        """(B, H, W) int64 below ``classes``, -1 for none -> two (B, classes, latent)"""
        small = resize_labels_torch(label, (self.mask_size, self.mask_size))
        hidden = self.encs(one_hot(small, classes).flatten(2))
        return self.mu(hidden), self.log_var(hidden)


class FeedForward(nn.Module):
    """Two linear layers with GELU between."""

    def __init__(self, inp: int, hidden: int, out: int) -> None:
        super().__init__()
        self.decs = nn.Sequential(nn.Linear(inp, hidden), nn.GELU(), nn.Linear(hidden, out))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, inp) -> (B, C, out)"""
        return self.decs(x)


class ConvDecoder(nn.Module):
    """Latents of all classes as the channels of a small map, enlarged sixteenfold."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        widths = [channels // 2**i for i in range(_DOUBLINGS + 1)]
        self.in_conv = nn.Conv2d(classes, widths[0], 1)
        self.decs = nn.Sequential(*(ResBlock(i, out, up=True) for i, out in pairwise(widths)))
        self.out_conv = nn.Conv2d(widths[-1], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, classes, h, w) -> (B, classes, 16h, 16w)"""
        return self.out_conv(self.decs(self.in_conv(x)))


class SemanticVAENet(nn.Module):
    """Everything that the official ``netG`` holds.

    Args:
        classes: classes without the background.
        side: side of the small map; a latent has side * side numbers.
        mask_size: side that label maps are reduced to.
        lstm_layers: layers of the LSTM, 0 for none.
        bidirectional: whether it runs both ways; without, latents pass it by unprojected.
        permute: whether the first two classes change places in the sequence, for good.
        hidden: width of the encoder's first layer and of the feed-forward part.
        channels: the decoder's at its start; each of its four stages halves them.
    """

    def __init__(
        self,
        classes: int,
        side: int,
        mask_size: int,
        lstm_layers: int,
        bidirectional: bool,
        permute: bool,
        hidden: int = 1024,
        channels: int = 512,
    ) -> None:
        super().__init__()
        latent = side * side
        self.classes, self.side, self.latent = classes, side, latent
        self.permute = permute
        self.states = lstm_layers * (2 if bidirectional else 1)
        self.encs = RegionEncoder(mask_size, hidden, latent)
        width = latent
        if lstm_layers:
            self.lstm = nn.LSTM(
                latent, latent, lstm_layers, batch_first=True, bidirectional=bidirectional
            )
            width *= 2 if bidirectional else 1
        self.decs = FeedForward(width, hidden, latent)
        self.resh_lin = nn.Linear(width, latent) if width != latent else nn.Identity()
        self.decs_conv = ConvDecoder(classes, channels)

    def encode(self, label: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latents.

        Args:
            label: (B, H, W) int64 with the background as 0; -1 belongs to no class.

        Returns:
            two (B, classes, latent); row i is class i + 1.
        """
        return self.encs((label - 1).clamp_min(HOLE), self.classes)

    def decode(self, z: Tensor, h0: Tensor, c0: Tensor) -> Tensor:
        """Logits of the classes without the background.

        Args:
            z: (B, classes, latent).
            h0, c0: (B, states, latent), first states of the LSTM; (B, 0, latent) without one.

        Returns:
            (B, classes, H, W)
        """
        if self.permute:
            z = torch.cat([z[:, 1:2], z[:, :1], z[:, 2:]], 1)
        if self.states:
            first = (h0.transpose(0, 1).contiguous(), c0.transpose(0, 1).contiguous())
            z, _ = self.lstm(z, first)
        z = self.decs(z) + self.resh_lin(z)
        return self.decs_conv(z.unflatten(2, (self.side, self.side)))
