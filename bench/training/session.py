"""One training from start to file: resuming, checkpoints, scores, provenance."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sisbench.core.errors import UserError
from sisbench.core.progress import Progress
from sisbench.training.recipe import Recipe, load_recipe

if TYPE_CHECKING:
    from sisbench.data import Dataset
    from sisbench.methods.loadable import Loadable
    from sisbench.training.data import TrainingData
    from sisbench.training.trainer import Trainer

Watch = Callable[[int, int, Mapping[str, float]], None]
"""Called after every update with (updates made, updates in all, unweighted losses)."""
Validator = Callable[[Recipe, Path, Path], tuple[float, bool]]
"""(recipe, weights, folder to work in) -> score, and whether higher is better. It is called in
another process where there are several devices, so it must be a module's function."""

_COPIES = 8
"""Copies of the parameters on disk at most: a checkpoint with Adam's moments and the average,
the one that replaces it, and the weights."""


def train(
    recipe: str | Path | Recipe,
    out: Path,
    steps: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    assignments: Sequence[str] = (),
    watch: Watch | None = None,
    validator: Validator | None = None,
) -> Path:
    """Train a method or layout editor and write its weights.

    A training that was broken off goes on from ``<out>.ckpt``, to the bytes of an undisturbed one
    on a CPU; that file is deleted at the end. Scalars and grids are in ``<out>.log``, the best
    weights by validation in ``<stem>.best.safetensors``.

    Args:
        recipe: name of a recipe (``recipe_names()``), a YAML file, or a recipe.
        out: the safetensors file; its header holds recipe, length, seed, data and seconds.
        steps: number of updates, by default the recipe's.
        seed: of initialisation, order and noise.
        progress: for the user; quiet by default.
        assignments: ``key=value`` in place of what the recipe says.
        watch: see ``Watch``; only with one device.
        validator: scores weights where the recipe asks for validation.

    Returns:
        ``out``.

    Raises:
        UserError: the recipe, its data or its options are wrong; ``out`` is no safetensors file or
            holds other weights; a loss is not finite; the disk is full.
        Unavailable: Lightning Fabric, or what the perceptual loss needs, is not there.
    """
    if out.suffix != ".safetensors":
        raise UserError(f"weights are written as .safetensors, got {out}", "name the file so")
    plan = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, assignments)
    if steps is not None:
        if steps < 1:
            raise UserError(f"steps must be at least 1, got {steps}")
        plan = plan.model_copy(update={"steps": steps, "epochs": None})
    if plan.validation.every and validator is None:
        raise UserError("the recipe asks for validation", "call sisbench train, or pass validator")
    told = progress or Progress(quiet=True)
    from sisbench.training.build import require_trainable
    from sisbench.training.fabric import make_fabric

    require_trainable(plan)
    if _already(out, plan, seed, told):
        return out

    fabric = make_fabric(plan)
    if plan.devices == 1:
        fabric.launch()
        _work(fabric, plan, out, seed, told, watch, validator)
    else:
        work: Any = _work  # Fabric names its first argument otherwise
        fabric.launch(work, plan, out, seed, None, None, validator)
    return out


def _already(out: Path, plan: Recipe, seed: int, progress: Progress) -> bool:
    """Whether ``out`` was trained by this very recipe and seed on these very data.

    Raises:
        UserError: it holds something else.
    """
    if not out.exists():
        return False
    from sisbench.core.state_dict import read_metadata
    from sisbench.training.build import training_files

    about = (read_metadata(out) or {}).get("training", {})
    same = about.get("recipe") == _recipe(plan) and about.get("seed") == seed
    files = training_files(plan)
    same = same and about.get("files", files) == files
    if same and about.get("data") == _dataset(plan).fingerprint():
        progress.say(f"{out} is there already, by this recipe, seed and data")
        out.with_name(out.name + ".ckpt").unlink(missing_ok=True)  # of a stop after the last write
        return True
    raise UserError(
        f"{out} exists and was not made by this recipe, length, seed and data",
        "write to another file, or delete it",
    )


def _recipe(plan: Recipe) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(plan.model_dump_json())
    return found


def _dataset(plan: Recipe) -> Dataset:
    from sisbench.data import open_dataset

    found: Dataset = open_dataset(plan.data.name, **plan.data.arguments)
    return found


def _open(plan: Recipe, progress: Progress, fabric: Any) -> TrainingData:
    """The training set; with several processes the first one decodes it for all."""
    from sisbench.training.data import TrainingData

    dataset = _dataset(plan)
    shared = fabric.world_size > 1
    if shared and fabric.global_rank:
        fabric.barrier()
    with progress.bar("reading the training split", len(dataset.ids)) as advance:
        data = TrainingData(dataset, advance, shared)
    if shared and not fabric.global_rank:
        fabric.barrier()
    data.per_epoch(plan.batch)
    return data


def _work(
    fabric: Any,
    plan: Recipe,
    out: Path,
    seed: int,
    progress: Progress | None,
    watch: Watch | None,
    validator: Validator | None,
) -> None:
    """The training in one of its processes; the first one writes and speaks."""
    from sisbench.training.monitor import SAMPLES, Monitor
    from sisbench.training.trainer import Trainer

    first = fabric.global_rank == 0
    told = (progress or Progress(quiet=not first)) if first else Progress(quiet=True)
    data = _open(plan, told, fabric)
    trainer = Trainer(plan, data, seed, fabric)
    checkpoint = out.with_name(out.name + ".ckpt")
    _require_space(trainer, out)
    if checkpoint.is_file() and not trainer.resume(checkpoint):
        told.say(f"{checkpoint} is damaged: training starts anew")
    monitor = Monitor(out.with_name(out.name + ".log"), trainer.step) if first else None
    if monitor is not None and monitor.writer is None:
        told.say('no curves: they need TensorBoard, pip install "sisbench[train]"')
    preview = data.batch(0, min(SAMPLES, len(data)), 0, flip=False, crop=plan.crop)
    total, start = trainer.steps, trainer.step
    with told.bar(f"training {plan.name}", total, start) as advance:
        while trainer.step < total:
            losses = trainer.update()
            step, last = trainer.step, trainer.step == total
            advance(1)
            if monitor is not None and _due(plan.log_every, step, last):
                monitor.scalars(step, losses)
            if monitor is not None and _due(plan.grid_every, step, last):
                monitor.grid(step, trainer.method, preview)
            if validator is not None and _due(plan.validation.every, step, last):
                if first:
                    _validate(trainer, validator, out, told, monitor)
                fabric.barrier()
            if step % plan.checkpoint_every == 0 and not last:
                trainer.save(checkpoint)
            if watch is not None:
                watch(step, total, losses)
    if first:
        _write(trainer, out, trainer.finished())
        checkpoint.unlink(missing_ok=True)
    if monitor is not None:
        monitor.close()
    fabric.barrier()


def _due(every: int, step: int, last: bool) -> bool:
    return bool(every) and (step % every == 0 or last)


def _write(trainer: Trainer, out: Path, method: Loadable) -> None:
    import torch

    from sisbench.methods.loadable import save_weights

    plan = trainer.recipe
    method.net.to(getattr(torch, plan.dtype))
    about = {
        "recipe": _recipe(plan),
        "steps": trainer.step,
        "images_seen": trainer.step * plan.batch,
        "seed": trainer.seed,
        "data": trainer.data.fingerprint,
        "seconds": round(trainer.seconds, 1),
        "torch": torch.__version__,
        "device": _device_name(trainer.fabric.device),
        "perceptual_loss": trainer.perceptual,
    }
    if trainer.files:
        about["files"] = trainer.files
    if plan.start is not None:
        about["start"] = f"{Path(plan.start).name}, sha256 {trainer.method.weights_info['sha256']}"
    save_weights(method, out, about)


def _device_name(device: Any) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device.type)


def _validate(
    trainer: Trainer, validator: Validator, out: Path, progress: Progress, monitor: Any
) -> None:
    """Score the present weights; keep them where none were better."""
    folder = out.with_name(out.name + ".log") / "validation"
    present = folder / "present.safetensors"
    present.parent.mkdir(parents=True, exist_ok=True)
    _write(trainer, present, trainer.finished())
    name = trainer.recipe.validation.metric
    try:
        score, up = validator(trainer.recipe, present, folder)
    except UserError as error:  # a score costs itself, not the training
        progress.say(f"update {trainer.step}: no {name}: {error.message}")
        return
    if monitor is not None:
        monitor.scalars(trainer.step, {f"validation/{name}": score})
    better = trainer.best is None or (score > trainer.best if up else score < trainer.best)
    mark = ""
    if better and math.isfinite(score):
        trainer.best = score
        present.replace(out.with_name(f"{out.stem}.best.safetensors"))
        mark = ", the best so far"
    progress.say(f"update {trainer.step}: {name} {score:.4g}{mark}")


def _require_space(trainer: Trainer, out: Path) -> None:
    """Raises UserError where the disk cannot take the checkpoints."""
    out.parent.mkdir(parents=True, exist_ok=True)
    size = sum(p.numel() for n in trainer.networks.values() for p in n.parameters())
    need, free = 4 * _COPIES * size, shutil.disk_usage(out.parent).free
    if free < need:
        raise UserError(
            f"{out.parent} has {free / 2**20:.0f} MiB free, checkpoints of this training take "
            f"{need / 2**20:.0f} MiB",
            "free some space, or write elsewhere",
        )
