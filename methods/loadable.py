"""What methods and layout editors share: options, networks for a label space, weights, a device."""

from __future__ import annotations

import dataclasses
import typing
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from bench.errors import UserError, did_you_mean
from bench.types import LabelSpace

Self = TypeVar("Self", bound="Loadable")


@dataclass(frozen=True)
class NoOptions:
    """A method without options."""


class Loadable(ABC):
    """Something built for a label space from options, whose networks load official checkpoints.

    Class attributes:
        name, title, paper: registry name, name in tables, citation with arXiv id or DOI.
        size: (H, W) that the official configuration draws.
        Options: frozen dataclass of the construction options and their official defaults.
        files: official module name -> file-name patterns in an official checkpoint folder.
        sampling_options: options that no weight depends on; they may differ from a file's own.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    size: tuple[int, int] = (256, 256)
    Options: ClassVar[type] = NoOptions
    files: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    sampling_options: ClassVar[frozenset[str]] = frozenset()

    net: nn.Module
    space: LabelSpace
    weights_info: dict[str, Any]

    def __init__(self, **options: Any) -> None:
        self.options = parse_options(self.Options, options, self.name)
        self.given_options = frozenset(options)
        self.weights_info = {"source": "none"}
        self.device = torch.device("cpu")

    # ---- construction -------------------------------------------------------------------------

    def setup(self: Self, space: LabelSpace | str) -> Self:
        """Build the networks for ``space`` (a label space or the name of one)."""
        self.space = LabelSpace.named(space) if isinstance(space, str) else space
        self.net = self.build(self.space).eval().requires_grad_(False)
        return self

    @abstractmethod
    def build(self, space: LabelSpace) -> nn.Module:
        """The networks, without trained weights, for label maps of ``space``."""

    def load(
        self: Self, space: LabelSpace | str, weights: Path | str | None, device: str = "cpu"
    ) -> Self:
        """Build for ``space`` and load ``weights``: an official checkpoint (file or folder), a
        sisbench safetensors file, ``"seeded:N"`` (the declared test source), or None for a method
        that learns nothing.

        Raises:
            UserError: the file is missing or does not fit; None for a method with parameters.
        """
        from methods.checkpoints import load_weights

        load_weights(self, space, weights)
        return self.to(device)

    def load_state(self: Self, official: Mapping[str, Mapping[str, Tensor]]) -> Self:
        """Load official state dicts by module name, as ``{"netG": {...}, "netE": {...}}``.

        Raises:
            UserError: keys are missing, unexpected or mis-shaped (each is listed).
        """
        from methods.checkpoints import load_official

        load_official(self, official)
        return self

    def key_maps(self) -> Mapping[str, Any]:
        """Official module name -> ``methods.checkpoints.KeyMap`` onto ``self.net``."""
        return {}

    def after_load(self) -> None:
        """Called once the weights are in: fold, contract or cache what is constant at inference."""

    def to(self: Self, device: str | torch.device) -> Self:
        """Move the networks; no silent fallback: an absent device is torch's own error."""
        self.device = torch.device(device)
        self.net.to(self.device)
        return self

    def describe(self) -> dict[str, Any]:
        """Name, options, size and weights, as the manifest of a run records them."""
        return {
            "name": self.name,
            "title": self.title,
            "paper": self.paper,
            "size": list(self.size),
            "options": dataclasses.asdict(self.options),
            "weights": self.weights_info,
        }


def parse_options(options_type: type, given: Mapping[str, Any], owner: str) -> Any:
    """``options_type(**given)``; an unknown name is an error that names the nearest one.

    Raises:
        UserError: unknown option, wrong basic type, or a value that the dataclass itself refuses.
    """
    fields = {f.name: f for f in dataclasses.fields(options_type)}
    hints = typing.get_type_hints(options_type)
    for key, value in given.items():
        if key not in fields:
            raise UserError(f"{owner} has no option '{key}'", did_you_mean(key, fields))
        if isinstance(value, list):
            given = {**given, key: tuple(value)}
        elif not _fits(value, hints[key]):
            raise UserError(f"{owner}: option '{key}' must be {hints[key]}, got {value!r}")
    try:
        return options_type(**given)
    except (ValueError, TypeError) as error:
        raise UserError(f"{owner}: {error}") from error


def _fits(value: Any, hint: Any) -> bool:
    """Whether a scalar option has the annotated basic type (int passes for float, not for bool)."""
    allowed = [a for a in (typing.get_args(hint) or (hint,)) if isinstance(a, type)]
    if not allowed or typing.get_origin(hint) in (tuple, list, dict):
        return True
    if isinstance(value, bool):
        return bool in allowed
    if isinstance(value, int) and float in allowed:
        return True
    return isinstance(value, tuple(allowed))
