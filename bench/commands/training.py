"""``sisbench train``, and the scores that a training asks for."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sisbench.commands.console import line
from sisbench.config import DatasetConfig, RunConfig
from sisbench.core.errors import UserError
from sisbench.core.progress import Progress
from sisbench.core.schema import validated

if TYPE_CHECKING:
    from sisbench.training.recipe import Recipe, ValidationConfig

PARSER = "toy-parser"
"""The recipe that is no method's."""


def list_recipes() -> None:
    """Every recipe with its method and data set."""
    from sisbench.training import load_recipe, recipe_names

    for name in recipe_names():
        recipe = load_recipe(name)
        length = f"{recipe.steps} updates" if recipe.steps else f"{recipe.epochs} epochs"
        line(f"{name:40} {recipe.method:18} {recipe.data.name:16} {length} of {recipe.batch}")
    line(f"{PARSER:40} {'(parser)':18} {'toyfaces':16}")


def train(
    recipe: str, to: Path, assignments: Sequence[str], steps: int, seed: int, quiet: bool
) -> None:
    """Train by a recipe's name or file and say where the weights are.

    Raises:
        UserError: unknown recipe; ``to`` is no .safetensors file; wrong keys.
    """
    progress = Progress(quiet=quiet)
    if recipe == PARSER:
        made = train_parser(to, steps or None, seed, progress, assignments)
    else:
        from sisbench.training import train as work

        made = work(recipe, to, steps or None, seed, progress, assignments, validator=validate)
    line(f"wrote {made}")


def train_parser(
    to: Path, steps: int | None, seed: int, progress: Progress, assignments: Sequence[str] = ()
) -> Path:
    """Train the toy parser.

    Args:
        assignments: ``data.root=DIR`` and so on: faces in place of toyfaces.

    Raises:
        UserError: ``to`` is no .safetensors file; data that do not fit.
    """
    from sisbench.core.overrides import overridden
    from sisbench.training.toy_parser import TOYFACES
    from sisbench.training.toy_parser import train as train_toy_parser

    if to.suffix != ".safetensors":
        raise UserError(f"weights are written as .safetensors, got {to}", "name the file so")
    given = overridden({"data": {}}, assignments)
    if wrong := set(given) - {"data"}:
        raise UserError(f"toy-parser takes no '{wrong.pop()}'", "it takes data.name, data.root ...")
    data = given["data"] if "name" in given["data"] else TOYFACES | given["data"]
    chosen = validated(DatasetConfig, data, "toy-parser")
    done = 0
    with progress.bar("training toy-parser", steps or 0) as advance:

        def step(at: int, _total: int, _loss: float) -> None:
            nonlocal done
            advance(at - done)
            done = at

        more = {} if steps is None else {"steps": steps}
        return train_toy_parser(to, seed=seed, data=chosen, progress=step, **more)


def validate(recipe: Recipe, weights: Path, folder: Path) -> tuple[float, bool]:
    """Score weights in the course of their training, by a run like any other.

    Args:
        recipe: says data, task and metric; weights: of its method.
        folder: where the run is made anew.

    Returns:
        The score, and whether higher is better.

    Raises:
        UserError: it could not be made.
    """
    from sisbench import metrics, pipeline
    from sisbench.core.frames import Run
    from sisbench.score.ceilings import CEILING_LABEL

    wanted = recipe.validation
    assert wanted.data is not None  # the recipe's own check
    shutil.rmtree(folder / "run", ignore_errors=True)
    entry = {"name": recipe.method, "weights": str(weights.resolve()), "options": recipe.options}
    raw: dict[str, Any] = {
        "name": "run",
        "output": str(folder / "run"),
        "datasets": [wanted.data.model_dump() | {"arguments": _limited(wanted)}],
        "methods": [entry],
        "tasks": [wanted.task],
        "metrics": [wanted.metric],
        "parsers": wanted.parsers,
    }
    config = validated(RunConfig, raw, "validation")
    pipeline.run_here(config, Progress(quiet=True))
    found = Run(config.folder).scores()
    own = found[(found["metric"] == wanted.metric) & (found["method"] != CEILING_LABEL)]
    if not len(own) or own["value"].isna().all():
        reason = own["reason"].iloc[0] if len(own) else f"{wanted.task} has no {wanted.metric}"
        raise UserError(f"validation: {reason}", "the images and reasons are in the run's folder")
    up = metrics.create(wanted.metric).direction == "up"
    return float(own["value"].iloc[0]), up


def _limited(wanted: ValidationConfig) -> dict[str, Any]:
    assert wanted.data is not None
    return {"limit": wanted.limit} | wanted.data.arguments
