"""Random numbers of an update: they depend on seed, step, phase, micro-batch and order of draws."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


class StepNoise:
    """Draws for the samples of one micro-batch, the same whatever the number of processes.

    Args:
        key: what the draws depend on, as (seed, step, phase, micro-batch).
        batch: samples of the micro-batch, over all processes.
        device: where the tensors are needed; they are drawn on the CPU.
        part: (rank, processes): each takes its own rows.
    """

    def __init__(
        self,
        key: tuple[int | str, ...],
        batch: int,
        device: torch.device,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        digest = hashlib.sha256(repr(key).encode()).digest()
        self.generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        self.batch, self.device = batch, device
        self.rank, self.processes = part

    def normal(self, name: str, *shape: int) -> Tensor:
        """(B, *shape) standard normal."""
        return self._own(torch.randn((self.batch, *shape), generator=self.generator))

    def uniform(self, name: str, *shape: int) -> Tensor:
        """(B, *shape) in [0, 1)."""
        return self._own(torch.rand((self.batch, *shape), generator=self.generator))

    def shared(self, name: str, *shape: int) -> Tensor:
        """(*shape) in [0, 1), the same for all samples and processes."""
        return torch.rand(shape, generator=self.generator).to(self.device)

    def _own(self, drawn: Tensor) -> Tensor:
        return drawn[self.rank :: self.processes].to(self.device)
