"""Inversion: the codes of a photograph, by gradient descent on the generator's input.

One photograph at a time: what it gives depends on no other, and at the official size a single one
fills a device.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from sisbench.methods.semantic_stylegan.lpips import Lpips
from sisbench.methods.semantic_stylegan.network import Generator, Networks
from sisbench.methods.semantic_stylegan.options import SemanticStyleGANOptions

TUNING_RATE = 1e-4
"""Learning rate of pivotal tuning."""


@dataclass(frozen=True)
class Inversion:
    """What was found for one photograph.

    Attributes:
        rows: (rows, D) float, W+.
        noises: its noise maps, each (1, h, w), where they were optimised.
        seconds: that it took, where known.
        photograph, key: (3, size, size) in [-1, 1] and its name in the store, where the generator
            is to be tuned to it.
    """

    rows: Tensor
    noises: tuple[Tensor, ...] | None = None
    seconds: float | None = None
    photograph: Tensor | None = None
    key: str = ""


@dataclass(frozen=True)
class Losses:
    """Losses of a step before its update, unweighted: each a scalar."""

    lpips: Tensor
    mse: Tensor
    mean: Tensor
    noise: Tensor


def learning_rate(step: int, steps: int, most: float) -> float:
    """0 at step 0, linear up to ``most`` within 5 % of the steps, a cosine down over the last
    25 %."""
    t = step / steps
    fall = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - t) / 0.25))
    return most * min(1.0, t / 0.05) * fall


class Descent:
    """The optimisation of one photograph's codes, step by step.

    Weights are frozen and the target's features computed once: neither changes a loss.

    Args:
        net: the generator and its mean latent, where the codes start.
        options: steps, rate and weights of the losses.
        lpips: the perceptual loss; None leaves it out (``lambda_lpips`` is 0 then).
        image: (1, 3, size, size) in [-1, 1].
    """

    def __init__(
        self,
        net: Networks,
        options: SemanticStyleGANOptions,
        lpips: Lpips | None,
        image: Tensor,
    ) -> None:
        self.options, self.generator, self.lpips = options, net.g_ema, lpips
        with torch.inference_mode(False), torch.no_grad():
            self.image = image.clone()  # what comes may be a tensor of inference mode
            self.mean = net.mean_latent.clone()
            rows = options.rows if options.w_plus else 1
            self.latent = self.mean.repeat(1, rows, 1).requires_grad_()
            self.noises = [n.clone() for n in self.generator.render.buffers_of_noise()]
            self.target = None if lpips is None else lpips.features(self.image)
            wanted = [self.latent]
            if not options.no_noises:
                wanted += [n.requires_grad_() for n in self.noises]
            self.adam = torch.optim.Adam(wanted, lr=options.lr, betas=(0.9, 0.999), eps=1e-8)
        self.done = 0

    def step(self) -> Losses:
        """One update; the gradients that it used stay in ``latent.grad``."""
        o = self.options
        rate = learning_rate(self.done, o.steps, o.lr)
        with torch.inference_mode(False), torch.enable_grad():
            image, _, _ = self.generator(self.codes(), self.noises)
            perceptual, mse = similarity(image, self.image, self.lpips, self.target)
            mean = (self.latent - self.mean).square().mean()
            noise = torch.stack([n.square().mean() for n in self.noises]).mean()
            loss = o.lambda_lpips * perceptual + o.lambda_mse * mse
            loss = loss + o.lambda_mean * mean + o.noise_regularize * noise
            for group in self.adam.param_groups:
                group["lr"] = rate
            self.adam.zero_grad()
            loss.backward()
            self.adam.step()
        self.done += 1
        return Losses(*(v.detach() for v in (perceptual, mse, mean, noise)))

    def codes(self) -> Tensor:
        """(1, rows, D) W+, or (1, D) where one code serves every row."""
        return self.latent if self.options.w_plus else self.latent[:, 0]

    def found(self) -> Inversion:
        """The codes as they are now."""
        rows = self.latent.detach()[0].expand(self.options.rows, -1).clone()
        if self.options.no_noises:
            return Inversion(rows)
        return Inversion(rows, tuple(n.detach()[0].clone() for n in self.noises))


def similarity(
    image: Tensor, target: Tensor, lpips: Lpips | None, features: list[Tensor] | None
) -> tuple[Tensor, Tensor]:
    """LPIPS (0 without it) and mean squared error of an image that is not clamped: scalars."""
    mse = F.mse_loss(image, target)
    if lpips is None or features is None:
        return torch.zeros_like(mse), mse
    return lpips(image, features).sum(), mse


def invert(
    net: Networks,
    options: SemanticStyleGANOptions,
    lpips: Lpips | None,
    image: Tensor,
    on_step: Callable[[int], None] = lambda done: None,
) -> Inversion:
    """All steps of ``Descent`` on (1, 3, size, size) in [-1, 1]; ``on_step`` is told how many are
    done."""
    start = time.perf_counter()
    descent = Descent(net, options, lpips, image)
    for done in range(1, options.steps + 1):
        descent.step()
        on_step(done)
    found = descent.found()
    float(found.rows.sum())  # a device that works behind has finished now
    return replace(found, seconds=time.perf_counter() - start)


def tune(
    net: Networks,
    options: SemanticStyleGANOptions,
    lpips: Lpips | None,
    found: Inversion,
    on_step: Callable[[int], None] = lambda done: None,
) -> Generator:
    """Pivotal tuning (Roich et al., ACM TOG 2022, arXiv:2106.05744): a copy of the generator is
    fitted to the photograph with its codes held.

    Args:
        net, options, lpips: as for ``Descent``.
        found: what ``invert`` gave, with its photograph.
        on_step: told how many steps are done.
    """
    assert found.photograph is not None  # kept where the options ask for tuning
    with torch.inference_mode(False), torch.enable_grad():
        generator = copy.deepcopy(net.g_ema).requires_grad_(True)
        generator.render.unfold()
        image, rows = found.photograph[None].clone(), found.rows[None].clone()
        noises = None if found.noises is None else [n[None].clone() for n in found.noises]
        features = None if lpips is None else lpips.features(image)
        used = [p for n, p in generator.named_parameters() if not n.startswith("style.")]
        adam = torch.optim.Adam(used, lr=TUNING_RATE)
        for done in range(1, options.finetune_steps + 1):
            perceptual, mse = similarity(generator(rows, noises)[0], image, lpips, features)
            adam.zero_grad()
            (options.lambda_lpips * perceptual + options.lambda_mse * mse).backward()
            adam.step()
            on_step(done)
        generator.requires_grad_(False)
        generator.render.fold()
    return generator
