"""Spectral normalisation in training (Miyato et al. 2018), in the order of the official codes.

torch's own parametrisation updates u before v; the SPADE family's checkpoints come from the older
form, v before u. After many updates the two agree, after one they do not.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

EPS = 1e-12


class Spectral(nn.Module):
    """weight / sigma; in train mode each call is one power iteration.

    Args:
        weight: (out, ...); seen as (out, rest).
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.u: Tensor
        self.v: Tensor
        out = weight.shape[0]
        self.register_buffer("u", F.normalize(torch.randn(out), dim=0, eps=EPS))
        self.register_buffer("v", F.normalize(torch.randn(weight[0].numel()), dim=0, eps=EPS))

    def forward(self, weight: Tensor) -> Tensor:
        """The weight with a largest singular value of about 1."""
        matrix = weight.flatten(1)
        if self.training:
            with torch.no_grad():
                self.v = F.normalize(matrix.T @ self.u, dim=0, eps=EPS)
                self.u = F.normalize(matrix @ self.v, dim=0, eps=EPS)
        return weight / torch.dot(self.u, matrix @ self.v)


def normalised(module: nn.Module) -> nn.Module:
    """``module`` with its weight normalised (in place)."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    parametrize.register_parametrization(module, "weight", Spectral(weight))
    return module
