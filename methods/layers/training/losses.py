"""Losses of the SPADE family (Park et al. 2019, section 3 and appendix A)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Predictions = Sequence[Sequence[Tensor]]
"""For each scale: features, then logits."""


def hinge_generator(fake: Predictions) -> Tensor:
    """-mean(logits), averaged over scales."""
    return torch.stack([-scale[-1].mean() for scale in fake]).mean()


def hinge_discriminator(fake: Predictions, real: Predictions) -> Tensor:
    """mean(relu(1 + fake)) + mean(relu(1 - real)), averaged over scales."""
    terms = [
        F.relu(1 + f[-1]).mean() + F.relu(1 - r[-1]).mean() for f, r in zip(fake, real, strict=True)
    ]
    return torch.stack(terms).mean()


def feature_matching(
    fake: Predictions, real: Predictions, stages: Sequence[int] | None = None
) -> Tensor:
    """Sum over ``stages`` (all by default) of the mean absolute difference, averaged over scales;
    real is fixed."""
    terms = [
        F.l1_loss(f[i], r[i].detach())
        for f, r in zip(fake, real, strict=True)
        for i in (range(len(f) - 1) if stages is None else stages)
    ]
    return torch.stack(terms).sum() / len(fake)


def kl_to_prior(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, exp(logvar)) || N(0, 1)), summed over dimensions *and over the batch*, as in the
    official code: its weight grows with the batch."""
    return -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum()
