"""Tokens by class: where each class's tokens lie in the flat list, and padded to equal numbers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sisbench.methods.scam.regions import take_rows


class TokenIndex(nn.Module):
    """Class 0 has k0 tokens, every other class k; M = max(k0, k).

    Attributes:
        position: (C, M) int64 position in the flat list (0 where the class has no such token).
        valid: (C, M) bool.
        place: (T,) int64 position in the padded (C * M) list.
    """

    position: Tensor
    valid: Tensor
    place: Tensor

    def __init__(self, classes: int, k0: int, k: int) -> None:
        super().__init__()
        most = max(k0, k)
        slot = torch.arange(most)
        start = (torch.arange(classes) - 1).clamp_min(0) * k + k0
        start[0] = 0
        number = torch.full((classes,), k)
        number[0] = k0
        valid = slot < number[:, None]
        self.most = most
        self.register_buffer("valid", valid, persistent=False)
        position = (start[:, None] + slot).masked_fill(~valid, 0)
        self.register_buffer("position", position, persistent=False)
        ends = number.cumsum(0)
        token = torch.arange(k0 + (classes - 1) * k)
        owner = torch.searchsorted(ends, token, right=True)
        self.register_buffer("place", owner * most + token - start[owner], persistent=False)

    def by_class(self, tokens: Tensor) -> Tensor:
        """(B, T, d) -> (B, C, M, d), zero where a class has no such token."""
        padded = tokens.index_select(1, self.position.flatten()).unflatten(1, self.position.shape)
        return padded * self.valid[:, :, None]

    def flat(self, padded: Tensor) -> Tensor:
        """(B, C, M, d) -> (B, T, d)."""
        return padded.flatten(1, 2).index_select(1, self.place)

    def of_ranks(self, tokens: Tensor, classes: Tensor) -> Tensor:
        """Tokens of chosen classes: (B, T, d), (B, P) int64 -> (B, P, M, d)."""
        index = self.position[classes.clamp_max(len(self.position) - 1)]  # (B, P, M)
        return take_rows(tokens, index.flatten(1)).unflatten(1, index.shape[1:])

    def valid_of(self, classes: Tensor) -> Tensor:
        """(B, P) -> (B, P, M) bool: which tokens of chosen classes exist."""
        return self.valid[classes.clamp_max(len(self.valid) - 1)]

    def spread(self, values: Tensor, classes: Tensor, default: Tensor) -> Tensor:
        """Values of the tokens of chosen classes, ``default`` for all other tokens.

        Args:
            values: (B, P, M, d).
            classes: (B, P) int64; C marks a rank that does not exist.
            default: (B, d).

        Returns:
            (B, T, d).
        """
        batch, number = classes.shape[0], len(self.position)
        out = default[:, None, None].repeat(1, number + 1, self.most, 1)  # one class for no rank
        out[torch.arange(batch, device=classes.device)[:, None], classes] = values
        return self.flat(out)
