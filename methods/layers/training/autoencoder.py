"""Training of an autoencoder with a codebook (VQGAN: Esser et al. 2021, section 3.1)."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sisbench.core.state_dict import read_state
from sisbench.methods.key_map import KeyMap

DELTA = 1e-6
"""Of the adaptive weight, "for numerical stability"."""
MOST = 1e4
"""Ours: a bound of the adaptive weight, for the start, where the adversary's gradient vanishes."""


def quantised(latent: Tensor, codes: Tensor) -> Tensor:
    """``codes`` with the gradient of ``latent`` (straight through; eq. 2 and text)."""
    return latent + (codes - latent).detach()


def codebook_loss(latent: Tensor, codes: Tensor) -> Tensor:
    """|sg[latent] - codes|^2, the mean over all numbers: moves the codebook (eq. 4)."""
    return F.mse_loss(codes, latent.detach())


def commitment_loss(latent: Tensor, codes: Tensor) -> Tensor:
    """|latent - sg[codes]|^2, the mean over all numbers: moves the encoder (eq. 4)."""
    return F.mse_loss(latent, codes.detach())


def unit_loss(latent: Tensor) -> Tensor:
    """Ours: squared means of the channels of (B, D, h, w) and squared distance of their standard
    deviations from 1, so that a latent without codebook has the scale of the diffusion's noise."""
    rows = latent.transpose(0, 1).flatten(1)  # (D, B*h*w)
    return rows.mean(1).square().mean() + (rows.std(1) - 1).square().mean()


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last: nn.Parameter) -> Tensor:
    """|gradient of the reconstruction| / (|gradient of the adversarial loss| + delta), both with
    respect to the last layer of the decoder (eq. 7); no gradient flows through it."""
    first, second = (
        torch.autograd.grad(loss, last, retain_graph=True)[0].norm()
        for loss in (reconstruction, adversarial)
    )
    return (first / (second + DELTA)).clamp(0, MOST).detach()


def load_autoencoder(stage: nn.Module, path: str, prefix: str) -> None:
    """Fill a first stage from a file of its own, from an official checkpoint of the whole method
    (keys that begin with ``prefix``) or from weights that were trained here.

    Raises:
        UserError: the file is missing or does not fit.
    """
    state = read_state(Path(path))
    for begin in (prefix, "first_stage."):
        if any(k.startswith(begin) for k in state):
            state = {k.removeprefix(begin): v for k, v in state.items() if k.startswith(begin)}
    keys = KeyMap(stage)
    keys.same()
    keys.ignore(r"^loss\.")  # of its own training
    keys.load(state, path)
