"""A training recipe: method, data, losses, optimisers, all in one YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from sisbench.config import DatasetConfig
from sisbench.core.errors import UserError, did_you_mean
from sisbench.core.schema import Strict, validated
from sisbench.core.yaml_file import parse_yaml, read_yaml


class LossWeights(Strict):
    """Weights of the generator's losses; 0 leaves one out (see ``sisbench.training.losses``).

    Attributes:
        gan, feature, l1, kl, vgg: weights.
        vgg_weights: torchvision's vgg19 parameters; the perceptual loss is off without them.
    """

    gan: float = Field(1.0, ge=0)
    feature: float = Field(10.0, ge=0)
    l1: float = Field(0.0, ge=0)
    kl: float = Field(0.05, ge=0)
    vgg: float = Field(10.0, ge=0)
    vgg_weights: Path | None = None


class DiscriminatorConfig(Strict):
    """The multi-scale patch discriminator (see ``sisbench.training.discriminator``)."""

    ndf: int = Field(64, ge=1)
    n_layers: int = Field(4, ge=2)
    scales: int = Field(2, ge=1)
    last_stride: Literal[1, 2] = 1


class Recipe(Strict):
    """How a method is trained.

    Attributes:
        method, options: registry name (or ./file.py:Class) and construction options.
        data: the training split.
        steps, batch: updates, samples an update.
        lr_g, lr_d, betas: Adam's learning rates (two time scales) and moments.
        decay: share of the steps, at the end, over which both rates fall to zero.
        ema: decay of the running average of the weights that is saved; None saves the last ones.
        flip: mirror half of the samples; left and right classes are not exchanged, as officially.
        loss, discriminator: see there.
        dtype: type of the saved tensors; loading casts back to float32.
        device, precision: as Lightning Fabric's ``accelerator`` and ``precision`` understand them.
        checkpoint_every: steps between the checkpoints that a broken run resumes from.
    """

    name: str
    method: str
    options: dict[str, Any] = Field(default_factory=dict)
    data: DatasetConfig
    steps: int = Field(ge=1)
    batch: int = Field(8, ge=1)
    lr_g: float = Field(1e-4, gt=0)
    lr_d: float = Field(4e-4, gt=0)
    betas: tuple[float, float] = (0.0, 0.9)
    decay: float = Field(0.0, ge=0, le=1)
    ema: float | None = Field(None, gt=0, lt=1)
    flip: bool = False
    loss: LossWeights = LossWeights()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    dtype: Literal["float32", "float16"] = "float32"
    device: str = "auto"
    precision: str = "32-true"
    checkpoint_every: int = Field(1000, ge=1)


def recipe_names() -> list[str]:
    """The recipes that come with sisbench."""
    folder = files("sisbench.training").joinpath("recipes")
    return sorted(
        p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml")
    )


def load_recipe(recipe: str | Path) -> Recipe:
    """A recipe by name, or from a YAML file.

    Raises:
        UserError: no such recipe, no YAML, unknown keys, wrong values.
    """
    if str(recipe) in recipe_names():
        source = files("sisbench.training").joinpath(f"recipes/{recipe}.yaml")
        where = f"recipe {recipe}"
        raw = parse_yaml(source.read_text(encoding="utf-8"), where)
    elif Path(recipe).is_file():
        where = str(recipe)
        raw = read_yaml(Path(recipe))
    else:
        raise UserError(
            f"no recipe is called '{recipe}', and there is no such file",
            did_you_mean(str(recipe), recipe_names()),
        )
    if not isinstance(raw, Mapping):
        raise UserError(f"{where}: expected keys like method, data, steps")
    return validated(Recipe, {"name": Path(recipe).stem, **raw}, where)
