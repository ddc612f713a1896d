"""Adversarial training of a method, generic over everything that renders with gradients.

An update draws one picture, scores it once, takes the gradients of both sides from that one pass
and moves both. (The official code draws a second picture for the discriminator; that costs a
quarter more and advances the batch statistics twice.)
"""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sisbench import methods
from sisbench.core.batch import Batch
from sisbench.core.errors import Unavailable, UserError
from sisbench.core.store import write_atomic
from sisbench.methods.layers.labels import instance_edges, one_hot
from sisbench.training.data import TrainingData
from sisbench.training.discriminator import MultiScaleDiscriminator
from sisbench.training.losses import (
    Perceptual,
    feature_matching,
    hinge_discriminator,
    hinge_generator,
    kl_to_prior,
)
from sisbench.training.recipe import Recipe
from sisbench.training.spectral import normalised

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from sisbench.methods.base import Method

Progress = Callable[[int, int, Mapping[str, float]], None]
SAVED = frozenset(
    ("identity", "step", "seconds", "net", "average", "discriminator", "opt_g", "opt_d")
)
"""Keys of a checkpoint."""
SETTLE = 20
"""Power iterations that bring the averaged singular vectors back onto the averaged weights."""


class StepNoise:
    """Standard normal noise of one update: depends on (seed, step) and the order of draws.

    Args:
        batch: number of samples.
        seed, step: of the run, of the update.
        device: where it is drawn.
    """

    def __init__(self, batch: int, seed: int, step: int, device: torch.device) -> None:
        self.batch, self.device = batch, device
        self.generator = torch.Generator(device).manual_seed(seed * 1_000_003 + step)

    def normal(self, name: str, *shape: int) -> Tensor:
        """(B, *shape)."""
        size = (self.batch, *shape)
        return torch.randn(size, generator=self.generator, device=self.device)


class Renderer(nn.Module):
    """A method as a module: reconstructs a batch with gradients."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.net, self.method = method.net, method

    def forward(self, batch: Batch, noise: StepNoise) -> tuple[Tensor, Tensor, Tensor | None]:
        """Picture (B, 3, H, W), codes, and their log-variance where the method has one."""
        style = self.method.encode_style(batch)
        picture = self.method.render(self.method.encode_layout(batch), style, noise)
        return picture, style.codes, style.extra.get("logvar")


def spectral_modules(method: Method) -> list[nn.Module]:
    """The modules of ``method`` whose ``weight`` is spectrally normalised in training."""
    return [
        keys.module.get_submodule(name.removesuffix(".weight"))
        for keys in method.key_maps().values()
        for name in keys.spectral_names
    ]


def normalise(method: Method) -> None:
    """Put the spectral norms of training onto ``method.net`` (in place)."""
    for module in spectral_modules(method):
        normalised(module)


def plain_state(net: nn.Module) -> dict[str, Tensor]:
    """The state dict with every spectral norm folded into its weight."""
    state = {k: v for k, v in net.state_dict().items() if ".parametrizations." not in k}
    for name, module in net.named_modules():
        if nn.utils.parametrize.is_parametrized(module, "weight"):
            with torch.no_grad():
                for _ in range(SETTLE):  # in train mode each access is one power iteration
                    module.train().weight  # noqa: B018
                state[f"{name}.weight"] = module.eval().weight.clone()
    return state


def make_fabric(recipe: Recipe) -> Fabric:
    """A single-device Fabric.

    Raises:
        Unavailable: Lightning Fabric is not installed.
    """
    try:
        from lightning_fabric import Fabric
    except ImportError as error:
        raise Unavailable(
            "training needs Lightning Fabric", 'install it: pip install "sisbench[train]"'
        ) from error
    return Fabric(accelerator=recipe.device, devices=1, precision=recipe.precision)  # type: ignore[arg-type]


class Trainer:
    """The state of one training.

    Args:
        recipe: what to do.
        data: the decoded training split.
        seed: of initialisation, order and noise.
    """

    def __init__(self, recipe: Recipe, data: TrainingData, seed: int) -> None:
        self.recipe, self.data, self.seed = recipe, data, seed
        self.fabric = make_fabric(recipe)
        torch.manual_seed(seed)
        self.method = methods.create(recipe.method, data.space, **recipe.options)
        normalise(self.method)
        self.method.to(self.fabric.device)
        self.method.net.train().requires_grad_(True)
        critic = recipe.discriminator
        self.channels = self.method.num_classes + int(data.instances is not None)
        discriminator = MultiScaleDiscriminator(
            self.channels, critic.ndf, critic.n_layers, critic.scales, critic.last_stride
        )
        adam = torch.optim.Adam
        renderer = Renderer(self.method)
        self.g = [p for p in renderer.parameters() if p.requires_grad]
        self.d = list(discriminator.parameters())
        self.renderer, self.opt_g = self.fabric.setup(
            renderer, adam(self.g, recipe.lr_g, recipe.betas)
        )
        self.discriminator, self.opt_d = self.fabric.setup(
            discriminator, adam(self.d, recipe.lr_d, recipe.betas)
        )
        self.perceptual: Perceptual | None = None
        if recipe.loss.vgg and recipe.loss.vgg_weights is not None:
            self.perceptual = Perceptual.read(recipe.loss.vgg_weights).to(self.fabric.device)
        self.step, self.seconds = 0, 0.0
        self.average = {k: v.clone() for k, v in self.method.net.state_dict().items()}

    def update(self, steps: int) -> dict[str, float]:
        """One update of both sides; returns the unweighted losses."""
        recipe, started = self.recipe, time.perf_counter()
        batch = self.data.batch(self.step, recipe.batch, self.seed, recipe.flip)
        batch = batch.to(self.fabric.device)
        self._set_rates(steps)
        noise = StepNoise(len(batch), self.seed, self.step, self.fabric.device)
        picture, codes, logvar = self.renderer(batch, noise)
        terms = self._losses(batch, picture, codes, logvar)
        weights = recipe.loss
        total = torch.stack(
            [getattr(weights, name) * value for name, value in terms.items() if name != "d"]
        ).sum()
        self.opt_g.zero_grad()
        self.opt_d.zero_grad()
        self.fabric.backward(total, inputs=self.g, retain_graph=True)
        self.fabric.backward(terms["d"], inputs=self.d)
        self.opt_g.step()
        self.opt_d.step()
        self._average()
        self.step += 1
        self.seconds += time.perf_counter() - started
        return {name: float(value.detach()) for name, value in terms.items()}

    def _losses(
        self, batch: Batch, picture: Tensor, codes: Tensor, logvar: Tensor | None
    ) -> dict[str, Tensor]:
        semantics = self._semantics(batch)
        fake = self.discriminator(semantics, picture)
        real = self.discriminator(semantics, batch.image)
        terms = {
            "gan": hinge_generator(fake),
            "feature": feature_matching(fake, real),
            "l1": (picture - batch.image).abs().mean(),
            "d": hinge_discriminator(fake, real),
        }
        if logvar is not None:
            terms["kl"] = kl_to_prior(codes, logvar)
        if self.perceptual is not None:
            terms["vgg"] = self.perceptual(picture, batch.image)
        return terms

    def _semantics(self, batch: Batch) -> Tensor:
        planes = one_hot(self.method.encode_layout(batch).label, self.method.num_classes)
        if batch.instance is None:
            return planes
        return torch.cat([planes, instance_edges(batch.instance)], 1)

    def _set_rates(self, steps: int) -> None:
        recipe = self.recipe
        left = (steps - self.step) / max(1.0, recipe.decay * steps)
        for optimiser, rate in ((self.opt_g, recipe.lr_g), (self.opt_d, recipe.lr_d)):
            for group in optimiser.param_groups:
                group["lr"] = rate * min(1.0, left)

    @torch.no_grad()
    def _average(self) -> None:
        """The running average, quick at first so that it forgets the start."""
        if self.recipe.ema is None:
            return
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        for name, value in self.method.net.state_dict().items():
            kept = self.average[name]
            if kept.is_floating_point():
                kept.lerp_(value, 1 - decay)
            else:
                kept.copy_(value)

    def finished(self) -> Method:
        """The method with its averaged (or last) weights, spectral norms folded, on the CPU."""
        if self.recipe.ema is not None:
            self.method.net.load_state_dict(self.average)
        state = plain_state(self.method.net)
        method = methods.create(self.recipe.method, self.data.space, **self.recipe.options)
        method.net.load_state_dict(state)
        return method

    # ---- resuming ---------------------------------------------------------------------------

    def _identity(self) -> str:
        return f"{self.recipe.model_dump_json()} seed {self.seed} data {self.data.fingerprint}"

    def save(self, path: Path) -> None:
        """Everything that a later run needs to go on."""
        state = {
            "identity": self._identity(),
            "step": self.step,
            "seconds": self.seconds,
            "net": self.method.net.state_dict(),
            "average": self.average,
            "discriminator": self.discriminator.state_dict(),
            "opt_g": self.opt_g.state_dict(),
            "opt_d": self.opt_d.state_dict(),
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomic(path, buffer.getvalue())

    def resume(self, path: Path) -> bool:
        """Go on from ``path``; False, and nothing has changed, where the file is damaged.

        Raises:
            UserError: it belongs to another recipe, seed or data set.
        """
        state = self._read(path)
        if state is None:
            return False
        if state["identity"] != self._identity():
            raise UserError(
                f"{path} belongs to another recipe, seed or training set",
                "delete it to start anew, or write to another file",
            )
        self.method.net.load_state_dict(state["net"])
        self.average = state["average"]
        self.discriminator.load_state_dict(state["discriminator"])
        self.opt_g.load_state_dict(state["opt_g"])
        self.opt_d.load_state_dict(state["opt_d"])
        self.step, self.seconds = state["step"], state["seconds"]
        return True

    def _read(self, path: Path) -> dict[str, Any] | None:
        """What ``save`` wrote; None where the file is cut, or holds something else."""
        try:
            with zipfile.ZipFile(path) as archive:  # torch.load does not ask for the checksums
                if archive.testzip() is not None:
                    return None
            state = torch.load(path, map_location=self.fabric.device, weights_only=True)
        except Exception:  # whatever the readers of zip, pickle and tensors meet in it
            return None
        return state if isinstance(state, dict) and state.keys() >= SAVED else None
