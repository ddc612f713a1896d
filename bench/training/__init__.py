"""Training of methods from recipes; the result is a safetensors file that says how it was made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sisbench.core.errors import UserError
from sisbench.training.recipe import Recipe, load_recipe, recipe_names

if TYPE_CHECKING:
    from sisbench.training.trainer import Progress

__all__ = ["Recipe", "load_recipe", "recipe_names", "train"]


def train(
    recipe: str | Path,
    out: Path,
    steps: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Path:
    """Train a method and write its weights.

    A run that was broken off goes on from ``<out>.ckpt``; that file is deleted at the end.

    Args:
        recipe: name of a recipe (``recipe_names()``) or a YAML file.
        out: the safetensors file; its header holds recipe, steps, seed, data and seconds.
        steps: number of updates, by default the recipe's.
        seed: of initialisation, order and noise.
        progress: called after every update with (step, steps, losses).
        say: called with a line for the user: a checkpoint that is damaged.

    Returns:
        ``out``.

    Raises:
        UserError: the recipe, its data or its options are wrong; ``out`` is no safetensors file.
        Unavailable: Lightning Fabric is not installed.
    """
    import torch

    from sisbench.data import open_dataset
    from sisbench.methods.loadable import save_weights
    from sisbench.training.data import TrainingData
    from sisbench.training.trainer import Trainer

    if out.suffix != ".safetensors":
        raise UserError(f"{out} must end in .safetensors")
    plan = load_recipe(recipe)
    total = plan.steps if steps is None else steps
    data = TrainingData(open_dataset(plan.data.name, **plan.data.arguments))
    trainer = Trainer(plan, data, seed)
    checkpoint = out.with_name(out.name + ".ckpt")
    if checkpoint.is_file() and not trainer.resume(checkpoint):
        say(f"{checkpoint} is damaged: training starts anew")
    while trainer.step < total:
        losses = trainer.update(total)
        if progress is not None:
            progress(trainer.step, total, losses)
        if trainer.step % plan.checkpoint_every == 0 and trainer.step < total:
            trainer.save(checkpoint)
    method = trainer.finished()
    method.net.to(getattr(torch, plan.dtype))
    vgg = "off (no weights given)" if trainer.perceptual is None else str(plan.loss.vgg)
    about = {
        "recipe": plan.model_dump(mode="json"),
        "steps": trainer.step,
        "seed": seed,
        "data": data.fingerprint,
        "seconds": round(trainer.seconds, 1),
        "torch": torch.__version__,
        "perceptual_loss": vgg,
    }
    save_weights(method, out, about)
    checkpoint.unlink(missing_ok=True)
    return out
