"""What a recipe asks for, checked and built: the method, and the files that its training reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sisbench import methods
from sisbench.core.errors import UserError
from sisbench.core.state_dict import sha256_of
from sisbench.methods.options import parse_options
from sisbench.training.perceptual import perceptual_file

if TYPE_CHECKING:
    from sisbench.core.label_space import LabelSpace
    from sisbench.methods.loadable import Loadable
    from sisbench.training.recipe import Recipe


def method_class(recipe: Recipe) -> type[Loadable]:
    """The class of the method or layout editor that a recipe names."""
    editor = recipe.method in methods.editors.names()
    found: type[Loadable] = (methods.editors if editor else methods.registry).get(recipe.method)
    return found


def require_trainable(recipe: Recipe) -> None:
    """Check what can be checked before data are read.

    Raises:
        UserError: unknown method or options, of the method or of its training; a start that is not
            there.
        Unavailable: the method declares no training; the perceptual network is not here.
    """
    kind = method_class(recipe)
    kind(**recipe.options)
    training = kind.training()
    options = parse_options(training.Options, recipe.training, f"training of {recipe.method}")
    training.require(options, recipe.start is not None)
    for option, path in _training_files(recipe).items():
        if not Path(path).is_file():
            raise UserError(f"{option}: there is no file {path}", "give a weights file")
    if recipe.start is not None and not Path(recipe.start).exists():
        raise UserError(f"start: there is no file {recipe.start}", "give a weights file or folder")
    perceptual_file(recipe.perceptual)


def _training_files(recipe: Recipe) -> dict[str, str]:
    """The files that options of the training name."""
    options = sorted(method_class(recipe).training().file_options)
    given = {f"training.{k}": recipe.training.get(k) for k in options}
    return {k: str(path) for k, path in given.items() if path is not None}


def training_files(recipe: Recipe) -> dict[str, str]:
    """Name and sha256 of the files that options of the training name, for the provenance."""
    return {
        k: f"{Path(p).name}, sha256 {sha256_of(Path(p))}"
        for k, p in _training_files(recipe).items()
    }


def build_method(recipe: Recipe, space: LabelSpace) -> Loadable:
    """The method or layout editor of a recipe, with initial weights or those of ``start``."""
    method = method_class(recipe)(**recipe.options)
    if recipe.start is not None:
        return method.load(space, recipe.start)
    return method.setup(space)
