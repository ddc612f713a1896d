"""``sisbench train``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sisbench.commands.console import line
from sisbench.core.errors import UserError
from sisbench.core.progress import Progress

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
    from sisbench import pipeline

    progress = Progress(quiet=quiet)
    if recipe == PARSER:
        if assignments:
            raise UserError(f"{PARSER} takes no overrides", "leave out " + " ".join(assignments))
        made = pipeline.train_parser(to, steps or None, seed, progress)
    else:
        from sisbench.training import train as work

        made = work(
            recipe, to, steps or None, seed, progress, assignments, validator=pipeline.validate
        )
    line(f"wrote {made}")
