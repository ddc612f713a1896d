"""Latent diffusion's noise schedule and DDIM sampler, on the official grid of timesteps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from sisbench.core.errors import UserError


def alphas_cumprod(timesteps: int = 1000, start: float = 0.0015, end: float = 0.0195) -> np.ndarray:
    """Share of signal left after each timestep: the square roots of the betas grow linearly.

    Returns:
        (timesteps,) float32, rounded from the float64 product.
    """
    betas = np.linspace(math.sqrt(start), math.sqrt(end), timesteps, dtype=np.float64) ** 2
    return np.cumprod(1 - betas).astype(np.float32)


def ddim_timesteps(steps: int, timesteps: int = 1000) -> np.ndarray:
    """The official grid: every floor(timesteps / steps)-th timestep, plus one, ascending.

    Where ``steps`` does not divide ``timesteps`` the grid has more steps than asked for (60 of 1000
    gives 63): the official code runs those, and so does this.

    Raises:
        UserError: ``steps`` is no usable number; where the last timestep falls off the schedule
            the official code stops with an index error.
    """
    if not 1 <= steps <= timesteps:
        raise UserError(f"steps must be within 1..{timesteps}, got {steps}")
    grid = np.arange(0, timesteps, timesteps // steps) + 1
    if grid[-1] >= timesteps:
        exact = [n for n in range(1, timesteps) if timesteps % n == 0]
        near = sorted(sorted(exact, key=lambda n: abs(n - steps))[:3])
        raise UserError(
            f"{steps} DDIM steps need timestep {grid[-1]}, the schedule ends at {timesteps - 1}: "
            "the official sampler fails here",
            f"take a divisor of {timesteps} instead, as {', '.join(map(str, near))}",
        )
    return grid


@dataclass(frozen=True)
class DDIM:
    """Coefficients of the sampler, ascending in time (Song et al., 2021).

    Attributes:
        timesteps: (S,) int64.
        alphas, alphas_prev: (S,) float64, signal left at a timestep and at the one before; the
            first step ends at that of timestep 0, not at 1.
        sigmas: (S,) float64, standard deviation of the noise that a step adds.
    """

    timesteps: np.ndarray
    alphas: np.ndarray
    alphas_prev: np.ndarray
    sigmas: np.ndarray

    @staticmethod
    def make(
        steps: int,
        eta: float = 0.0,
        timesteps: int = 1000,
        start: float = 0.0015,
        end: float = 0.0195,
    ) -> DDIM:
        """The sampler of ``steps`` requested steps; eta 0 is deterministic, 1 as random as DDPM.

        Raises:
            UserError: see ``ddim_timesteps``; eta below 0.
        """
        if eta < 0:
            raise UserError(f"eta must be 0 or more, got {eta}")
        grid = ddim_timesteps(steps, timesteps)
        signal = alphas_cumprod(timesteps, start, end).astype(np.float64)
        now, before = signal[grid], np.concatenate([signal[:1], signal[grid[:-1]]])
        sigmas = eta * np.sqrt((1 - before) / (1 - now) * (1 - now / before))
        if np.any(1 - before - sigmas**2 < 0):
            raise UserError(f"eta {eta} asks for more noise than a step can hold", "take 0 to 1")
        return DDIM(grid, now, before, sigmas)

    def __len__(self) -> int:
        return len(self.timesteps)

    def step(
        self, x: Tensor, eps: Tensor, i: int, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """One step down from ``timesteps[i]``.

        Args:
            x: (B, D, h, w) latent at that timestep.
            eps: (B, D, h, w) predicted noise.
            i: index into the ascending grid.
            noise: (B, D, h, w) standard normal; None for none.

        Returns:
            The latent one step earlier, and the clean latent predicted here.
        """
        a, before, sigma = (float(v[i]) for v in (self.alphas, self.alphas_prev, self.sigmas))
        clean = (x - math.sqrt(1 - a) * eps) / math.sqrt(a)
        x = math.sqrt(before) * clean + math.sqrt(1 - before - sigma**2) * eps
        return (x if noise is None else x + sigma * noise), clean

    def sample(
        self,
        x: Tensor,
        predict: Callable[[Tensor, int], Tensor],
        noise: Callable[[int], Tensor] | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """All steps, from the largest timestep down; yields what ``step`` gives.

        Args:
            x: (B, D, h, w) start, standard normal.
            predict: latent and grid index -> predicted noise.
            noise: running number of the step, from 0 -> its noise; None where eta is 0.
        """
        for count, i in enumerate(reversed(range(len(self)))):
            drawn = None if noise is None else noise(count)
            x, clean = self.step(x, predict(x, i), i, drawn)
            yield x, clean
