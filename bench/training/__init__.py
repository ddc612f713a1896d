"""Training of methods from recipes; the result is a safetensors file that says how it was made."""

from __future__ import annotations

from sisbench.training.recipe import Recipe, ValidationConfig, load_recipe, recipe_names
from sisbench.training.session import Validator, Watch, train

__all__ = [
    "Recipe",
    "ValidationConfig",
    "Validator",
    "Watch",
    "load_recipe",
    "recipe_names",
    "train",
]
