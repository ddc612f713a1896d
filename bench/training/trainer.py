"""The trainer: phases, accumulation, averages and resuming, for whatever a method declares."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from sisbench.core.errors import UserError
from sisbench.methods.base import Method
from sisbench.methods.training import Losses, Phase, Step, Training
from sisbench.training.average import Average
from sisbench.training.build import build_method, training_files
from sisbench.training.checkpoint import read_checkpoint, write_checkpoint
from sisbench.training.data import TrainingData
from sisbench.training.fabric import make_fabric
from sisbench.training.noise import StepNoise
from sisbench.training.perceptual import make_perceptual, perceptual_file

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch.optim import Optimizer

    from sisbench.methods.loadable import Loadable
    from sisbench.training.recipe import Recipe

SETTLE = 20
"""Power iterations from averaged singular vectors to those of the averaged weights."""


class NonFinite(UserError):
    """A loss became infinite or NaN."""


class _PhaseModule(nn.Module):
    """A phase as Fabric wants it: a module that owns what it moves and gives losses."""

    def __init__(self, phase: Phase, networks: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.owned = nn.ModuleDict({name: networks[name] for name in phase.networks})
        self.losses = phase.losses

    def forward(self, step: Step) -> Losses:
        """The phase's losses."""
        return self.losses(step)


class Trainer:
    """The state of one training, in one of its processes.

    Args:
        recipe: what to do.
        data: the decoded training split.
        seed: of initialisation, order and noise.
        fabric: launched; by default one of its own.

    Raises:
        UserError: wrong options, a method that declares no training, an order that it lacks.
        Unavailable: Fabric, or the weights of the perceptual network, are not there.
    """

    def __init__(
        self, recipe: Recipe, data: TrainingData, seed: int, fabric: Fabric | None = None
    ) -> None:
        self.recipe, self.data, self.seed = recipe, data, seed
        self.fabric = fabric or make_fabric(recipe)
        self.steps = recipe.steps or (recipe.epochs or 0) * data.per_epoch(recipe.batch)
        torch.manual_seed(seed)
        self.method = build_method(recipe, data.space)
        self._require_size()
        perceptual = make_perceptual(recipe.perceptual)
        self.perceptual = perceptual_file(recipe.perceptual)
        self.files = training_files(recipe)
        if perceptual is not None:
            perceptual.to(self.fabric.device)
        self.training: Training = type(self.method).training()(
            self.method, recipe.training, perceptual
        )
        self.training.prepare(data.labels)
        self.phases = self.training.phases()
        self.networks = dict(self.training.networks())
        self._trained = {
            name: [p for p in network.parameters() if p.requires_grad]
            for name, network in self.networks.items()
        }
        self.method.to(self.fabric.device)
        self.modules: list[Any] = []
        self.optimisers: list[Optimizer] = []
        for phase in self.phases:
            module = _PhaseModule(phase, self.networks)
            optimiser = phase.optimiser([p for n in phase.networks for p in self._trained[n]])
            self._only(phase)
            wrapped, optimiser = self.fabric.setup(module, optimiser)
            self.modules.append(wrapped)
            self.optimisers.append(optimiser)
        self._rates = [[g["lr"] for g in o.param_groups] for o in self.optimisers]
        covered = {name: self.networks[name] for name in self.training.averaged()}
        self.average = None if recipe.ema is None else Average(covered, recipe.ema)
        self.step, self.seconds, self.unfinite = 0, 0.0, 0
        self.best: float | None = None

    def _require_size(self) -> None:
        crop, method = self.recipe.crop, self.method
        size = self.data.size if crop is None else (crop, crop)
        if isinstance(method, Method) and size != tuple(method.size):
            raise UserError(
                f"{self.recipe.method} draws {method.size[0]} x {method.size[1]}, the training "
                f"samples are {size[0]} x {size[1]}",
                "set data.size, crop, or the option of the method's size",
            )

    # ---- an update --------------------------------------------------------------------------

    def update(self) -> dict[str, float]:
        """One update of every phase.

        Returns:
            The unweighted losses by name, averaged over micro-batches.

        Raises:
            NonFinite: a loss is infinite or NaN once more than the training forgives.
        """
        started = time.perf_counter()
        torch.manual_seed(hash((self.seed, self.step)) % 2**63)  # what draws without a source
        self._set_rates()
        self._average_between()
        batches = [self._micro_batch(k) for k in range(self.recipe.accumulate)]
        run = self._one_pass if self.recipe.order == "one_pass" else self._in_order
        losses = run(batches)
        if self.average is not None:
            self.average.update()
        self.step += 1
        self.seconds += time.perf_counter() - started
        return losses

    def _micro_batch(self, k: int) -> Any:
        recipe = self.recipe
        batch = self.data.batch(self.step, recipe.batch, self.seed, recipe.flip, recipe.crop)
        size = recipe.batch // recipe.accumulate
        own = batch[k * size : (k + 1) * size]
        own = own[self.fabric.global_rank :: self.fabric.world_size]
        return own.to(self.fabric.device)

    def _noise(self, phase: str, k: int) -> StepNoise:
        return StepNoise(
            (self.seed, self.step, phase, k),
            self.recipe.batch // self.recipe.accumulate,
            self.fabric.device,
            (self.fabric.global_rank, self.fabric.world_size),
        )

    def _in_order(self, batches: list[Any]) -> dict[str, float]:
        """Each phase draws for itself and moves before the next one begins."""
        found: dict[str, float] = {}
        kept: list[dict[str, Tensor]] = [{} for _ in batches]
        last = len(batches) - 1
        for phase, module, optimiser in zip(self.phases, self.modules, self.optimisers):
            self._only(phase)
            optimiser.zero_grad(set_to_none=True)
            sums: dict[str, float] = {}
            for k, batch in enumerate(batches):
                step = Step(self.step, batch, self._noise(phase.name, k), kept[k])
                with self.fabric.no_backward_sync(module, enabled=k < last):
                    losses = module(step)
                    if losses:
                        self.fabric.backward(self._total(losses) / len(batches))
                _add(sums, losses, len(batches))
            if sums:
                self._move(phase, optimiser, sums)
            found |= sums
        return found

    def _one_pass(self, batches: list[Any]) -> dict[str, float]:
        """All phases take their gradients from one forward pass; then all move."""
        if self.fabric.world_size > 1:
            raise UserError("order: one_pass works on one device", "set order: official")
        for network in self._trained.values():
            for parameter in network:
                parameter.requires_grad_(True)
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        sums: list[dict[str, float]] = [{} for _ in self.phases]
        for k, batch in enumerate(batches):
            with self.fabric.autocast():
                shared = self.training.one_pass(Step(self.step, batch, self._noise("all", k)))
            if shared is None:
                raise UserError(f"{self.recipe.method} has no one-pass form", "set order: official")
            for i, phase in enumerate(self.phases):
                losses = shared[phase.name]
                moved = [p for n in phase.networks for p in self._trained[n]]
                total = self._total(losses) / len(batches)
                self.fabric.backward(total, inputs=moved, retain_graph=i + 1 < len(self.phases))
                _add(sums[i], losses, len(batches))
        for phase, optimiser, found in zip(self.phases, self.optimisers, sums):
            self._move(phase, optimiser, found)
        return {k: v for found in sums for k, v in found.items()}

    def _total(self, losses: Losses) -> Tensor:
        return torch.stack([self.training.weight(k) * v for k, v in losses.items()]).sum()

    def _only(self, phase: Phase) -> None:
        """Gradients for what the phase moves and nothing else."""
        for name, parameters in self._trained.items():
            for parameter in parameters:
                parameter.requires_grad_(name in phase.networks)

    def _move(self, phase: Phase, optimiser: Any, losses: Mapping[str, float]) -> None:
        """Step, unless a loss is not finite in any process."""
        wrong = [name for name, value in losses.items() if not math.isfinite(value)]
        flag = torch.tensor(float(bool(wrong)), device=self.fabric.device)
        if self.fabric.world_size > 1:
            flag = cast("Tensor", self.fabric.all_reduce(flag, reduce_op="sum"))
        if not flag.item():
            if self.recipe.clip is not None:
                module = self.modules[self.phases.index(phase)]
                self.fabric.clip_gradients(module, optimiser, max_norm=self.recipe.clip)
            optimiser.step()
            self.unfinite = 0
            return
        self.unfinite += 1
        optimiser.zero_grad(set_to_none=True)
        if self.unfinite > self.training.forgiven:
            shown = ", ".join(f"{k} = {losses[k]}" for k in wrong) or "in another process"
            raise NonFinite(
                f"update {self.step + 1}, {phase.name}: a loss is not finite ({shown})",
                "lower the learning rates, or use precision 32-true; the last checkpoint is kept",
            )

    def _set_rates(self) -> None:
        """Constant, then linearly to zero over the last ``decay`` of the length."""
        recipe, at, length = self.recipe, self.step, self.steps
        if recipe.decay_by == "epoch":
            unit = self.data.per_epoch(recipe.batch)
            at, length = self.step // unit, max(1, self.steps // unit)
        factor = min(1.0, (length - at) / max(1.0, recipe.decay * length))
        for optimiser, rates in zip(self.optimisers, self._rates):
            for group, rate in zip(optimiser.param_groups, rates):
                group["lr"] = rate * factor

    def _average_between(self) -> None:
        """Averages that move once a micro-batch count the batches between two updates too."""
        if self.average is not None and self.training.averages_per_batch and self.step:
            for _ in range(self.recipe.accumulate - 1):
                self.average.update()

    # ---- results ----------------------------------------------------------------------------

    def finished(self) -> Loadable:
        """A new method with the averaged (or last) weights, spectral norms folded, on the CPU."""
        twin = copy.deepcopy(self.method.net)
        if self.average is not None:
            places = {module: name for name, module in self.method.net.named_modules()}
            for name, state in self.average.state.items():
                twin.get_submodule(places[self.networks[name]]).load_state_dict(state)
        method = build_method(self.recipe.model_copy(update={"start": None}), self.data.space)
        settle = 0 if self.average is None else SETTLE
        method.net.load_state_dict(plain_state(twin, settle))
        method.after_load()
        return method

    # ---- resuming ---------------------------------------------------------------------------

    def _identity(self) -> str:
        aside = {"steps", "epochs", "device", "devices", "checkpoint_every", "log_every"}
        recipe = self.recipe.model_dump_json(exclude=aside | {"grid_every", "validation"})
        files = f" files {self.files}" if self.files else ""
        return f"{recipe} seed {self.seed} data {self.data.fingerprint}{files}"

    def save(self, path: Path) -> None:
        """Everything that a later process needs to go on, written by the first process alone."""
        if self.fabric.global_rank:
            return
        state = {
            "identity": self._identity(),
            "steps": self.steps,
            "step": self.step,
            "seconds": self.seconds,
            "best": self.best,
            "method": self.method.net.state_dict(),
            "networks": {name: network.state_dict() for name, network in self.networks.items()},
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "average": None
            if self.average is None
            else {"updates": self.average.updates, "state": self.average.state},
        }
        write_checkpoint(path, state)

    def resume(self, path: Path) -> bool:
        """Go on from ``path``; False, and nothing has changed, where the file is damaged.

        Raises:
            UserError: it belongs to another recipe, length, seed or data set.
        """
        state = read_checkpoint(path)
        if state is None:
            return False
        if state["identity"] != self._identity() or state["steps"] != self.steps:
            raise UserError(
                f"{path} belongs to another recipe, length, seed or training set",
                "delete it to start anew, or write to another file",
            )
        self.method.net.load_state_dict(state["method"])
        for name, network in self.networks.items():
            network.load_state_dict(state["networks"][name])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        if self.average is not None:
            self.average.updates = state["average"]["updates"]
            for name, kept in self.average.state.items():
                for key, value in state["average"]["state"][name].items():
                    kept[key].copy_(value)
        self.step, self.seconds, self.best = state["step"], state["seconds"], state["best"]
        return True


def _add(sums: dict[str, float], losses: Losses, count: int) -> None:
    for name, value in losses.items():
        sums[name] = sums.get(name, 0.0) + float(value.detach()) / count


def plain_state(net: nn.Module, settle: int = 0) -> dict[str, Tensor]:
    """The state dict with every spectral norm folded into its weight, by the singular vectors of
    training, as the official codes do; ``settle`` power iterations bring averaged ones back onto
    averaged weights (``net`` is changed)."""
    state = {k: v for k, v in net.state_dict().items() if ".parametrizations." not in k}
    for name, module in net.named_modules():
        if nn.utils.parametrize.is_parametrized(module, "weight"):
            with torch.no_grad():
                for _ in range(settle):  # in train mode each access is one power iteration
                    module.train().weight  # noqa: B018
                state[f"{name}.weight"] = module.eval().weight.clone()
    return state
