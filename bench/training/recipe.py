"""A training recipe: method, data, length, losses, all in one YAML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from sisbench.config import DatasetConfig, PathText
from sisbench.core.errors import UserError, did_you_mean
from sisbench.core.overrides import overridden
from sisbench.core.schema import Strict, validated
from sisbench.core.yaml_file import parse_yaml, read_yaml


class ValidationConfig(Strict):
    """Scores by the harness in the course of training; the best weights are kept.

    Attributes:
        every: updates between two scores; 0 asks for none.
        data: the samples.
        task, metric: what is scored; sets the meaning of "best" by the metric's direction.
        limit: samples at most.
        parsers: label space -> parser, for metrics that need one.
    """

    every: int = Field(0, ge=0)
    data: DatasetConfig | None = None
    task: str = "reconstruct"
    metric: str = "psnr"
    limit: int = Field(50, ge=2)
    parsers: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _data_named(self) -> ValidationConfig:
        if self.every and self.data is None:
            raise ValueError("validation.every needs validation.data: the samples to score")
        return self


class Recipe(Strict):
    """How a method is trained.

    Attributes:
        method, options: registry name of a method or layout editor (or ./file.py:Class) and its
            construction options.
        start: weights to begin from, as a run takes them; None: initial ones.
        data: the training split.
        steps, epochs: length, one of the two; an epoch sees every sample once.
        batch: samples of an update, over all devices and micro-batches.
        accumulate: micro-batches of an update.
        decay, decay_by: share of the length, at its end, over which all rates fall linearly to
            zero, at every update or at the end of each epoch.
        ema: decay of the running average of the weights that is written; None writes the last.
        clip: largest norm of a phase's gradients, longer ones are shortened; None officially.
        flip: mirror half of the samples; left and right classes are not exchanged, as officially.
        crop: side of a random crop of the loaded picture; None takes it whole.
        perceptual: network of the perceptual loss: vgg19 (weights registry), efficientnet-lite0
            (extra "efficientnet", offline) or none, which leaves that loss out.
        order: official (each phase draws for itself) or one_pass (one picture serves all phases).
        training: fields of the ``Options`` of the method's training (losses, rates, widths).
        validation: see ``ValidationConfig``.
        dtype: type of the saved tensors; loading casts back to float32.
        device, devices, precision: as Lightning Fabric's ``accelerator``, ``devices`` and
            ``precision`` understand them.
        checkpoint_every, log_every, grid_every: updates between the checkpoints that a broken run
            resumes from, the scalars, and the sample grids (0: none).
    """

    name: str
    method: PathText
    options: dict[str, Any] = Field(default_factory=dict)
    start: PathText | None = None
    data: DatasetConfig
    steps: int | None = Field(None, ge=1)
    epochs: int | None = Field(None, ge=1)
    batch: int = Field(8, ge=1)
    accumulate: int = Field(1, ge=1)
    decay: float = Field(0.0, ge=0, le=1)
    decay_by: Literal["step", "epoch"] = "step"
    ema: float | None = Field(None, gt=0, lt=1)
    clip: float | None = Field(None, gt=0)
    flip: bool = False
    crop: int | None = Field(None, ge=8)
    perceptual: Literal["none", "vgg19", "efficientnet-lite0"] = "none"
    order: Literal["official", "one_pass"] = "official"
    training: dict[str, Any] = Field(default_factory=dict)
    validation: ValidationConfig = ValidationConfig()
    dtype: Literal["float32", "float16"] = "float32"
    device: str = "auto"
    devices: int = Field(1, ge=1)
    precision: str = "32-true"
    checkpoint_every: int = Field(1000, ge=1)
    log_every: int = Field(50, ge=0)
    grid_every: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _one_length(self) -> Recipe:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give the length of the training as 'steps' or as 'epochs'")
        share, rest = divmod(self.batch, self.accumulate * self.devices)
        if rest or not share:
            raise ValueError(
                f"batch {self.batch} does not split into accumulate {self.accumulate} x "
                f"devices {self.devices} equal parts"
            )
        return self


def recipe_names() -> list[str]:
    """The recipes that come with sisbench."""
    folder = files("sisbench.training").joinpath("recipes")
    return sorted(
        p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml")
    )


def load_recipe(recipe: str | Path, assignments: Sequence[str] = ()) -> Recipe:
    """A recipe by name, or from a YAML file.

    Args:
        recipe: a name of ``recipe_names()``, or a path.
        assignments: ``key=value`` in place of what the file says, as ``data.root=DIR``.

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
    named = {"name": Path(recipe).stem, **overridden(raw, assignments)}
    return validated(Recipe, named, where)
