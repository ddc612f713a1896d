"""Guided diffusion's samplers: DDPM with a learned variance and DDIM, on a respaced schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sisbench.core.errors import UserError

SAMPLERS = ("ddpm", "ddim")
SPACINGS = ("even", "stride")


def spaced_timesteps(steps: int, spacing: str, timesteps: int = 1000) -> np.ndarray:
    """Which timesteps are kept, ascending, (steps,) int64.

    ``even`` has both ends: round(i (timesteps - 1) / (steps - 1)). ``stride`` has every d-th from 0
    on, d the smallest whole number that keeps exactly ``steps`` of them.

    Raises:
        UserError: fewer than two steps or more than there are; no stride keeps so many.
    """
    if not 2 <= steps <= timesteps:
        raise UserError(f"steps must be within 2..{timesteps}, got {steps}")
    if spacing == "even":
        return np.array([round(i * (timesteps - 1) / (steps - 1)) for i in range(steps)])
    exact = {len(range(0, timesteps, d)): d for d in range(timesteps, 0, -1)}
    if steps not in exact:
        near = sorted(sorted(exact, key=lambda n: abs(n - steps))[:4])
        raise UserError(
            f"no whole stride through {timesteps} timesteps keeps exactly {steps} steps",
            f"take {', '.join(map(str, near))}, or spacing: even",
        )
    return np.arange(0, timesteps, exact[steps])


@dataclass(frozen=True)
class Respaced:
    """Tables of the sampler, ascending in time (Nichol and Dhariwal, 2021).

    Attributes:
        timesteps: (S,) int64 on the original schedule: what the network is told.
        betas: (S,) float64, recomputed for the steps that are kept.
        alphas, alphas_prev: (S,) float64, signal left at a step and at the one before (first: 1).
    """

    timesteps: np.ndarray
    betas: np.ndarray
    alphas: np.ndarray
    alphas_prev: np.ndarray

    @staticmethod
    def make(
        steps: int = 1000,
        spacing: str = "even",
        timesteps: int = 1000,
        start: float = 1e-4,
        end: float = 0.02,
    ) -> Respaced:
        """``steps`` of a schedule whose betas grow linearly; raises as ``spaced_timesteps``."""
        kept = spaced_timesteps(steps, spacing, timesteps)
        alphas = np.cumprod(1 - np.linspace(start, end, timesteps, dtype=np.float64))[kept]
        before = np.concatenate([[1.0], alphas[:-1]])
        return Respaced(kept, 1 - alphas / before, alphas, before)

    def __len__(self) -> int:
        return len(self.timesteps)

    def log_variance(self, v: Tensor, i: int) -> Tensor:
        """Between the log of the posterior variance (v = -1) and that of beta (v = 1).

        Step 0 has the posterior variance 0 and takes that of step 1.
        """
        j = max(i, 1)
        low = math.log(self.betas[j] * (1 - self.alphas_prev[j]) / (1 - self.alphas[j]))
        return torch.lerp(torch.full_like(v, low), torch.full_like(v, math.log(self.betas[i])),
                          (v + 1) / 2)  # fmt: skip

    def clean(self, x: Tensor, eps: Tensor, i: int) -> Tensor:
        """The clean image predicted at step i, clamped to [-1, 1]."""
        a = float(self.alphas[i])
        return (math.sqrt(1 / a) * x - math.sqrt(1 / a - 1) * eps).clamp(-1, 1)

    def mean(self, x: Tensor, clean: Tensor, i: int) -> Tensor:
        """Mean of the posterior of the image one step earlier."""
        a, before, beta = (float(t[i]) for t in (self.alphas, self.alphas_prev, self.betas))
        first = beta * math.sqrt(before) / (1 - a)
        return first * clean + (1 - before) * math.sqrt(1 - beta) / (1 - a) * x

    def ddpm_step(self, x: Tensor, out: Tensor, i: int, noise: Tensor | None) -> Tensor:
        """One ancestral step down from ``timesteps[i]``.

        Args:
            x: (B, 3, H, W) noisy image.
            out: (B, 6, H, W) predicted noise, then v.
            i: index into the ascending steps.
            noise: (B, 3, H, W) standard normal; None at i = 0.
        """
        eps, v = out.chunk(2, 1)
        mean = self.mean(x, self.clean(x, eps, i), i)
        if noise is None:
            return mean
        return mean + (0.5 * self.log_variance(v, i)).exp() * noise

    def ddim_step(
        self, x: Tensor, out: Tensor, i: int, eta: float = 0.0, noise: Tensor | None = None
    ) -> Tensor:
        """One step of DDIM (Song et al., 2021); arguments as for ``ddpm_step``.

        The noise is derived once more from the clamped clean image.
        """
        a, before = float(self.alphas[i]), float(self.alphas_prev[i])
        clean = self.clean(x, out.chunk(2, 1)[0], i)
        eps = (math.sqrt(1 / a) * x - clean) / math.sqrt(1 / a - 1)
        sigma = eta * math.sqrt((1 - before) / (1 - a) * (1 - a / before))
        x = math.sqrt(before) * clean + math.sqrt(1 - before - sigma**2) * eps
        return x if noise is None else x + sigma * noise

    def sample(
        self,
        x: Tensor,
        predict: Callable[[Tensor, int], Tensor],
        noise: Callable[[int], Tensor],
        eta: float | None = None,
    ) -> Iterator[Tensor]:
        """All steps, from the largest timestep down; yields the image after each.

        Args:
            x: (B, 3, H, W) start, standard normal.
            predict: image and step index -> (B, 6, H, W).
            noise: running number of the step, from 0 -> its noise; called where it is used.
            eta: None for DDPM; DDIM's else, 0 for no noise after the start.
        """
        for count, i in enumerate(reversed(range(len(self)))):
            drawn = noise(count) if i and eta != 0 else None
            out = predict(x, i)
            if eta is None:
                x = self.ddpm_step(x, out, i, drawn)
            else:
                x = self.ddim_step(x, out, i, eta, drawn)
            yield x
