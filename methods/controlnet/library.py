"""The optional libraries, and what they leave unchecked."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from sisbench.core.errors import Unavailable, UserError, did_you_mean

Config = Mapping[str, Any]


def library(name: str = "diffusers") -> Any:
    """diffusers or transformers.

    Raises:
        Unavailable: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Unavailable(
            f"controlnet needs the library {name} ({error})", "pip install 'sisbench[diffusers]'"
        ) from error


def arguments(kind: type) -> set[str]:
    """Names that a class of the libraries is constructed with."""
    return set(inspect.signature(kind.__init__).parameters) - {"self"}  # type: ignore[misc]


def require_known(part: str, config: Config, known: set[str]) -> None:
    """Check the keys of a configuration; the libraries pass over those that they do not know.

    Raises:
        UserError: an unknown key; the nearest one is named.
    """
    for key in config:
        if key not in known:
            raise UserError(f"controlnet: {part} has no key '{key}'", did_you_mean(key, known))


def first_line(error: Exception) -> str:
    """The first line of an error, or its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
